"""Clips out: one mux, sound exact to the sample, the recipe inside, checked by reading back, whole or not at all.

A wave is padded or cut to round(frames / fps * sample_rate) samples; copied packets stay as they are. AAC and Opus put
priming samples in front; the containers' own means (edit list, codec delay) take them off again in every decoder, so
both streams start together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sky4.errors import RequestError, Sky4Failure
from sky4.media.audio_track import Sound, audio_track
from sky4.media.destination import RECIPE_NAME, OutputFormat, output_format, whole_or_nothing
from sky4.media.opening import located
from sky4.media.packets import PacketSound, decoded, resampled
from sky4.media.provenance import INSIDE, Provenance, put_beside, put_inside
from sky4.media.recipe import COMMENT, encode_recipe

Frames = Iterable[NDArray[np.uint8]]  # chunks [f, H, W, 3] in order

SOUND_NAME = "audio.wav"
BT709 = 1  # the number of BT.709 in ffmpeg's lists of primaries, transfer curves and matrices
ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"crf": "17", "preset": "medium"},
    "libvpx-vp9": {"crf": "20", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"},
}
AUDIO_FRAME = 1024  # samples of an AAC frame, the unit to which two streams can be equally long


@dataclass(frozen=True)
class WrittenClip:
    """What stands on the disk after the check."""

    path: Path
    frames: int
    width: int
    height: int
    seconds: Fraction
    bytes: int


def write_clip(
    path: Path,
    frames: Frames | None,
    audio: Sound | None,
    *,
    fps: Fraction,
    recipe: Mapping[str, Any],
    sample_rate: int = 44100,
    force: bool = False,
    provenance: Provenance = INSIDE,
) -> WrittenClip:
    """Write frames (chunks uint8 [f, H, W, 3]) and sound to `path`, in the format of its suffix.

    The sound is a wave (float32 [2, S] at sample_rate), which is encoded, or packets, which are copied. A folder of
    pictures gets the wave that the packets decode to. Either may be None where the format allows it. The recipe goes
    where `provenance` says. RequestError for a name that cannot be written or a format that cannot hold the clip;
    Sky4Failure where writing or the check fails. In both cases nothing is left on the disk.
    """
    chosen = output_format(path)
    _check_holds(path, chosen, frames, audio)
    with whole_or_nothing(path, force) as partial:
        comment = encode_recipe(recipe) if provenance.inside else ""
        if chosen.muxer:
            written = _write_container(partial, chosen, frames, audio, fps, sample_rate, comment)
        elif chosen.still:
            written = _write_still(partial, frames or (), comment)
        else:
            written = _write_folder(partial, frames, audio, fps, sample_rate, comment)
        put_inside(partial, path, recipe, provenance)
        if chosen.muxer:
            _check_container(partial, written, sample_rate, audio)
        size = sum(file.stat().st_size for file in partial.iterdir()) if partial.is_dir() else partial.stat().st_size
    if provenance.sidecar:
        put_beside(path, recipe, force)
    count, width, height, heard = written
    seconds = count / fps if count else heard
    return WrittenClip(path, count, width, height, seconds, size)


Counts = tuple[int, int, int, Fraction]  # frames, width, height, seconds of sound


def _check_holds(path: Path, chosen: OutputFormat, frames: Frames | None, audio: Sound | None) -> None:
    if frames is None and audio is None:
        raise RequestError(f"nothing to write to '{path}': neither picture nor sound was asked for")
    if frames is not None and chosen.video_codec is None:
        raise RequestError(f"the output '{path}' is {chosen.name}, which holds sound alone; use --only audio or .mp4")
    if audio is not None and chosen.audio_codec is None:
        raise RequestError(f"the output '{path}' is {chosen.name}, which holds no sound; use .mp4, or --only still")
    if frames is None and chosen.still:
        raise RequestError(f"the output '{path}' is {chosen.name}, which holds a picture, and none was asked for")


def _write_container(
    partial: Path,
    chosen: OutputFormat,
    frames: Frames | None,
    audio: Sound | None,
    fps: Fraction,
    rate: int,
    comment: str,
) -> Counts:
    clock = audio.rate if isinstance(audio, PacketSound) else rate
    container = av.open(located(partial), "w", format=chosen.muxer, options=_muxer_options(chosen, fps, clock))
    done = False
    try:
        if comment:
            container.metadata[COMMENT] = comment
        chunks = None if frames is None else iter(frames)
        first = None if chunks is None else next(chunks)
        picture = None if first is None else _add_video(container, chosen, first, fps)
        sound = None if audio is None else audio_track(container, chosen, audio, rate)
        count = 0
        for chunk in _chain(first, chunks):
            for frame in chunk:
                assert picture is not None
                container.mux(picture.encode(_video_frame(frame, count, fps, picture)))
                count += 1
            if sound is not None:  # beside its picture, so that the muxer never has to hold one stream back
                sound.write_until(count / fps)
        if picture is not None:
            container.mux(picture.encode(None))
        if sound is not None:
            if picture is None and isinstance(audio, np.ndarray):
                sound.write_until(Fraction(audio.shape[1], rate))
            sound.finish()
        container.close()
        done = True
    except av.error.FFmpegError as error:
        raise _as_os_error(error) from error
    finally:
        if not done:
            with suppress(av.error.FFmpegError, OSError):  # the file goes anyway; its first error is the one to tell
                container.close()
    height, width = (0, 0) if first is None else first.shape[1:3]
    return count, width, height, Fraction(0) if sound is None else sound.seconds


def _chain(first: NDArray[np.uint8] | None, rest: Iterator[NDArray[np.uint8]] | None) -> Iterator[NDArray[np.uint8]]:
    if first is not None:
        yield first
    if rest is not None:
        yield from rest


def _muxer_options(chosen: OutputFormat, fps: Fraction, rate: int) -> dict[str, str]:
    if chosen.muxer not in ("mp4", "mov"):
        return {}
    # The edit list cuts the priming samples off in units of the movie's clock: one that counts both frames and samples
    # exactly. 2**31 is the field's size.
    clock = lcm(fps.numerator, rate)
    options = {"movflags": "+faststart", "movie_timescale": str(clock if clock < 2**31 else rate)}
    if chosen.muxer == "mov":
        options["movflags"] += "+use_metadata_tags"  # QuickTime's own comment ends at 64 KB
    return options


def _add_video(
    container: OutputContainer, chosen: OutputFormat, chunk: NDArray[np.uint8], fps: Fraction
) -> VideoStream:
    assert chosen.video_codec is not None
    height, width = chunk.shape[1:3]
    if width % 2 or height % 2:
        raise RequestError(f"{chosen.name} holds even sizes only, got {width}x{height}; use even sizes or a PNG folder")
    stream = container.add_stream(chosen.video_codec, rate=fps, options=_encoder_options(chosen.video_codec))
    assert isinstance(stream, VideoStream)
    stream.width, stream.height, stream.pix_fmt, stream.time_base = width, height, "yuv420p", 1 / fps
    context = stream.codec_context
    context.color_primaries = context.color_trc = context.colorspace = BT709
    context.color_range = ColorRange.MPEG
    return stream


def _encoder_options(codec: str) -> dict[str, str]:
    """With AVX-512 x264's macroblock tree reads memory that nothing wrote, and the same frames give other files: there
    it takes its AVX2 forms, with which they never do. Linux alone says what its processor can."""
    processor = Path("/proc/cpuinfo")
    if codec == "libx264" and processor.is_file() and " avx512f" in processor.read_text(errors="replace"):
        return ENCODERS[codec] | {"x264-params": "asm=avx2"}
    return ENCODERS[codec]


def _video_frame(picture: NDArray[np.uint8], index: int, fps: Fraction, stream: VideoStream) -> VideoFrame:
    if picture.shape != (stream.height, stream.width, 3):
        raise Sky4Failure(f"frame {index} has the shape {picture.shape}, the clip {stream.width}x{stream.height}")
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
    )
    frame.pts, frame.time_base = index, 1 / fps
    return frame


def _write_still(partial: Path, frames: Frames, comment: str) -> Counts:
    count, picture = 0, None
    for chunk in frames:
        count += len(chunk)
        picture = chunk[0]
    if count != 1 or picture is None:
        raise RequestError(f"a .png holds one picture, and the clip has {count} frames; use --only still, or .mp4")
    _save_png(partial, picture, comment)
    return 1, picture.shape[1], picture.shape[0], Fraction(0)


def _write_folder(
    partial: Path,
    frames: Frames | None,
    audio: Sound | None,
    fps: Fraction,
    rate: int,
    comment: str,
) -> Counts:
    partial.mkdir()
    count, width, height, heard = 0, 0, 0, Fraction(0)
    for chunk in frames or ():
        for picture in chunk:
            height, width = picture.shape[:2]
            _save_png(partial / f"{count:05d}.png", picture, "")
            count += 1
    if audio is not None:
        wave, rate = _as_wave(audio, rate)
        samples = round(count / fps * rate) if frames is not None else wave.shape[1]
        wave = np.pad(wave[:, :samples], ((0, 0), (0, max(0, samples - wave.shape[1]))))
        _write_container(partial / SOUND_NAME, output_format(Path(SOUND_NAME)), None, wave, fps, rate, comment)
        heard = Fraction(samples, rate)
    if comment:
        (partial / RECIPE_NAME).write_text(comment + "\n", "utf-8")
    return count, width, height, heard


def _as_wave(audio: Sound, rate: int) -> tuple[NDArray[np.float32], int]:
    """(wave [2, S], its rate); packets decode at their own."""
    if isinstance(audio, PacketSound):
        return resampled(decoded(audio), audio.rate, audio.layout, audio.rate, "stereo"), audio.rate
    return audio, rate


def _save_png(path: Path, picture: NDArray[np.uint8], comment: str) -> None:
    info = PngInfo()
    if comment:
        info.add_text(COMMENT, comment)
    with path.open("wb") as file:
        Image.fromarray(np.ascontiguousarray(picture)).save(file, format="PNG", pnginfo=info)


def _check_container(partial: Path, written: Counts, rate: int, audio: Sound | None) -> None:
    """Read the file back: as many frames as were given, sound as long as the picture to one audio frame, and copied
    packets with every byte as it was."""
    count, _, _, seconds = written
    pictures, heard, sums = 0, Fraction(0), hashlib.sha256()
    try:
        with av.open(located(partial)) as container:
            for packet in container.demux():
                if packet.pts is None:
                    continue
                if packet.stream.type == "video":
                    pictures += 1
                else:
                    sums.update(packet)
                    # the end, not a sum: Matroska rounds every duration to a millisecond
                    heard = max(heard, (packet.pts + (packet.duration or 0)) * (packet.time_base or Fraction(0)))
    except av.error.FFmpegError as error:
        raise Sky4Failure("the clip was written and could not be read back; check the disk and try again") from error
    if pictures != count:
        raise Sky4Failure(f"{count} frames were written and {pictures} came back; try again or another format")
    if isinstance(audio, PacketSound):
        if sums.hexdigest() != audio.digest:
            raise Sky4Failure(
                f"the sound of '{audio.path}' was not kept byte by byte; try another format, such as .mkv"
            )
    # an encoder may put up to a frame of priming in front and a part of one behind
    elif audio is not None and abs(heard - seconds) > Fraction(3 * AUDIO_FRAME, rate):
        told = f"{float(seconds):.3f} s of sound were written and {float(heard):.3f} s came back"
        raise Sky4Failure(f"{told}; try again")


def _as_os_error(error: av.error.FFmpegError) -> Exception:
    """Disk faults as the OSError that they are; anything else is a failure of the encoder."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror)
    return Sky4Failure(f"the encoder failed ({error.strerror}); try another format, such as a PNG folder")
