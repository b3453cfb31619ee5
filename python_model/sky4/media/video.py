"""Video in, frame by frame: upright, in square pixels, at the frame rate asked for.

A file with a variable frame rate is read like any other: output frame k shows the last frame whose time, rounded to
the output's grid, is not after k.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, repeat
from math import floor
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from sky4.errors import RequestError
from sky4.media.fit import display_size, fit_picture
from sky4.media.opening import decodable, open_media

MAX_PIXELS = 8192 * 4352  # 8K and a little: what a frame may have before it is decoded
MAX_FRAMES = 10_000  # of a whole file held in memory at the wanted size; streaming has no limit
SEEK_SECONDS = 5  # less is decoded sooner than found
HALF = Fraction(1, 2)


@dataclass(frozen=True)
class VideoFacts:
    """What a video file says of itself, at display geometry.

    fps: its own rate; of a variable one the average, to a hundredth. frames: so many of it at fps.
    """

    width: int
    height: int
    fps: Fraction
    frames: int
    seconds: Fraction
    has_audio: bool
    variable: bool = False


def probe_video(path: Path) -> VideoFacts:
    """Facts of a video, one frame of it decoded as a proof. RequestError where missing or undecodable."""
    with _opened(path) as (container, stream):
        frame, _, _ = next(_decoded(container, stream))
        width, height = display_size(frame.width, frame.height, _pixel_aspect(stream))
        if _quarter_turns(frame) % 2:
            width, height = height, width
        fps, has_audio = own_rate(stream), bool(container.streams.audio)
    with _opened(path) as (container, stream):
        zero = _zero(container)
        # packets, not frames: an hour of video is measured without decoding it
        shown = [
            (packet.pts, _span(packet, stream, zero)[1]) for packet in container.demux(stream) if packet.pts is not None
        ]
    ticks, seconds = sorted(pts for pts, _ in shown), max(end for _, end in shown)
    variable = is_uneven(ticks)
    if variable:
        fps = max(Fraction(1), Fraction(round(len(ticks) / seconds * 100), 100))
    return VideoFacts(width, height, fps, max(1, _slot(seconds, fps)), seconds, has_audio, variable)


def iterate_video(
    path: Path, fps: Fraction | None = None, size: tuple[int, int] | None = None, skip: int = 0
) -> Iterator[NDArray[np.uint8]]:
    """Frames [H, W, 3] at `fps` (the file's own for None), each covering `size` (width, height) if one is given.

    skip: so many frames at the head are left out; what lies far ahead of them is not decoded.
    """
    with _opened(path) as (container, stream):
        rate, aspect = fps or own_rate(stream), _pixel_aspect(stream)
        shown: VideoFrame | None = None
        end, written = Fraction(0), skip
        for frame, start, frame_end in _decoded_from(container, stream, skip / rate):
            slot = _slot(start, rate)
            if shown is not None and slot > written:  # the frame before this one filled the slots up to here
                yield from repeat(_picture(shown, aspect, size), slot - written)
                written = slot
            shown, end = frame, frame_end
        if shown is not None:
            # a single frame too short for the grid is still shown
            yield from repeat(_picture(shown, aspect, size), max(int(written == 0), _slot(end, rate) - written))


@contextmanager
def shown_frames(path: Path) -> Iterator[tuple[VideoStream, Iterator[tuple[VideoFrame, Fraction, Fraction]]]]:
    """The picture's stream, and its frames as they lie in the file, each with the times at which it appears and ends.

    Use as a context. RequestError as `probe_video`, also where the file breaks off.
    """
    with _opened(path) as (container, stream):
        yield stream, _decoded(container, stream)


def read_video(
    path: Path,
    fps: Fraction | None = None,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    skip: int = 0,
) -> NDArray[np.uint8]:
    """`frames` frames (all for None) from frame `skip` on as one array [F, H, W, 3].

    RequestError where it would be too long, or where nothing lies behind `skip`.
    """
    pictures = list(islice(iterate_video(path, fps, size, skip), MAX_FRAMES + 1 if frames is None else frames))
    if len(pictures) > MAX_FRAMES:
        raise RequestError(f"'{path}' has more than {MAX_FRAMES} frames; cut it first")
    if not pictures:
        raise RequestError(f"'{path}' has no more than {skip} frames, and all of them are left out; begin earlier")
    return np.stack(pictures)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    if not path.is_file():
        raise RequestError(f"'{path}' does not exist or is no file; give a video file")
    try:
        with open_media(path) as container:
            if not container.streams.video:
                raise RequestError(f"'{path}' holds no picture; give a file with a video stream")
            stream = decodable(container.streams.video[0], path)
            if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
                size = f"{stream.codec_context.width}x{stream.codec_context.height}"
                raise RequestError(f"'{path}' has frames of {size} pixels, more than 8K; scale it down first")
            stream.thread_type = "AUTO"
            yield container, stream
    except (av.error.FFmpegError, OSError, StopIteration) as error:
        raise RequestError(f"'{path}' cannot be decoded as a video; give an MP4, MOV, MKV, WebM or similar") from error


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[tuple[VideoFrame, Fraction, Fraction]]:
    """Frames with the times at which each appears and ends, in seconds from the file's start."""
    zero = _zero(container)
    end = Fraction(0)
    for frame in container.decode(stream):
        if frame.pts is None:
            start, end = end, end + 1 / own_rate(stream)
        else:
            start, end = _span(frame, stream, zero)
        yield frame, start, end


def _decoded_from(
    container: InputContainer, stream: VideoStream, seconds: Fraction
) -> Iterator[tuple[VideoFrame, Fraction, Fraction]]:
    """As _decoded, from a frame on that appears no later than `seconds`, where the file knows its way there."""
    if seconds > SEEK_SECONDS:
        container.seek(floor((seconds + _zero(container)) * av.time_base), backward=True)
        frames = _decoded(container, stream)
        first = next(frames, None)
        if first is not None and first[0].pts is not None and first[1] <= seconds:
            yield first
            yield from frames
            return
        container.seek(container.start_time or 0)  # an index that leads astray: from the start then
    yield from _decoded(container, stream)


def _span(timed: VideoFrame | Packet[VideoStream], stream: VideoStream, zero: Fraction) -> tuple[Fraction, Fraction]:
    base = timed.time_base or stream.time_base or Fraction(1, 1000)
    start = (timed.pts or 0) * base - zero
    return start, start + (timed.duration * base if timed.duration else 1 / own_rate(stream))


def _zero(container: InputContainer) -> Fraction:
    return Fraction(container.start_time or 0, av.time_base)


def is_uneven(ticks: Sequence[int]) -> bool:
    """Whether frames, whose times are sorted, lie unevenly: a quarter of a frame off, which no clock's rounding is."""
    if len(ticks) < 3:
        return False
    first, steps, total = ticks[0], len(ticks) - 1, ticks[-1] - ticks[0]
    return any(4 * abs((tick - first) * steps - number * total) >= total for number, tick in enumerate(ticks))


def _slot(seconds: Fraction, rate: Fraction) -> int:
    return floor(seconds * rate + HALF)


def own_rate(stream: VideoStream) -> Fraction:
    """Frames a second, as the file says."""
    return Fraction(stream.average_rate or stream.guessed_rate or 25)  # 25: a single picture tells no rate


def _pixel_aspect(stream: VideoStream) -> Fraction:
    return Fraction(stream.sample_aspect_ratio or 1)


def _quarter_turns(frame: VideoFrame) -> int:
    """Turns of 90 degrees, counter-clockwise, that show the frame upright."""
    return round(frame.rotation / 90) % 4


def _picture(frame: VideoFrame, aspect: Fraction, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    turns = _quarter_turns(frame)
    picture = np.rot90(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8), turns)
    return fit_picture(picture, size, 1 / aspect if turns % 2 else aspect)
