"""From a file to what it holds: the picture in one pass, the sound in another, neither held in memory."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from sky4.checking import events
from sky4.checking.facts import Facts, PictureFacts, Sync
from sky4.checking.picture import SIDE, PictureMeter
from sky4.checking.sound import listen
from sky4.errors import RequestError
from sky4.media import own_rate, read_audio, read_image, read_recipe, shown_frames
from sky4.media.opening import open_media
from sky4.media.video import is_uneven
from sky4.media.write import SOUND_NAME

SHORTEST_SECONDS = Fraction(1, 4)  # of what is black, frozen or repeated: less is not told
FOLDER_FPS = Fraction(16)  # of a folder of pictures whose recipe does not tell
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
GREY = np.array([0.299, 0.587, 0.114], np.float32)

Frames = NDArray[np.uint8]


def measure(path: Path) -> Facts:
    """Facts of a clip, picture, sound or folder of pictures. RequestError where the path leads to nothing.

    A file that cannot be decoded, or not to its end, gets a `fault`.
    """
    if not path.exists():
        raise RequestError(f"'{path}' does not exist; give a clip, picture, sound or folder")
    if not (path.is_file() or path.is_dir()):  # a pipe or a device may never end, or never begin
        raise RequestError(f"'{path}' is neither a file nor a folder; give a clip, picture, sound or folder")
    facts = Facts(path, None, None, None, None)
    with suppress(RequestError):
        facts = replace(facts, recipe=read_recipe(path))
    try:
        return _measured(facts)
    except (RequestError, av.error.FFmpegError, OSError, ValueError) as error:
        return replace(facts, fault=str(error) or type(error).__name__)


def _measured(facts: Facts) -> Facts:
    path, watched = facts.path, None
    if path.is_dir() or path.suffix.lower() in PICTURES:
        watched = _watch(_pictures(path, facts.recipe))
        sound_path = path / SOUND_NAME
        heard = listen(sound_path) if sound_path.is_file() else None
    else:
        with open_media(path) as container:
            shows, sounds = bool(container.streams.video), bool(container.streams.audio)
        if not shows and not sounds:
            raise RequestError(f"'{path}' holds neither picture nor sound")
        if shows:
            with shown_frames(path) as (stream, frames):
                size = stream.codec_context.width, stream.codec_context.height
                small = _Scaler()
                looks = ((small.of(frame), frame.pts) for frame, _, _ in frames)
                watched = _watch(_Source(*size, own_rate(stream), stream.frames or None, looks))
        sound_path, heard = path, listen(path) if sounds else None
    facts = replace(facts, picture=None if watched is None else watched[0], sound=heard)
    if watched is None or heard is None or not watched[0].frames or not heard.samples:
        return facts
    return replace(facts, sync=_sync(watched[0], watched[1], sound_path))


Look = Callable[[int, int], Frames]  # a frame scaled to (width, height), [height, width, 3]


@dataclass(frozen=True)
class _Source:
    """Where frames come from: each as a look at it, with its time in the file's own ticks (None: it has none)."""

    width: int
    height: int
    fps: Fraction
    stated: int | None
    looks: Iterator[tuple[Look, int | None]]


def _watch(source: _Source) -> tuple[PictureFacts, Frames]:
    """(facts of the picture, its first frames [F, h, w, 3] made small)."""
    scale = max(1, ceil(max(source.width, source.height) / events.SIDE))
    width, height = max(1, source.width // scale), max(1, source.height // scale)
    meter, ticks = PictureMeter(ceil(SHORTEST_SECONDS * source.fps)), array("q")
    head: list[Frames] = []
    for look, tick in source.looks:
        meter.add(np.asarray(look(SIDE, SIDE) @ GREY, np.float32))
        if tick is not None:
            ticks.append(tick)
        if len(head) < events.LONGEST:
            head.append(look(width, height))
    black, frozen, repeated = meter.finish()
    facts = PictureFacts(
        width=source.width,
        height=source.height,
        fps=source.fps,
        frames=meter.frames,
        stated_frames=source.stated,
        uneven=is_uneven(ticks),
        black=black,
        frozen=frozen,
        repeated=repeated,
    )
    return facts, np.stack(head) if head else np.zeros((0, height, width, 3), np.uint8)


class _Scaler:
    """Keeps what scaling to a size needs from frame to frame, which takes longer to set up than to use."""

    def __init__(self) -> None:
        self._sized: dict[tuple[int, int], VideoReformatter] = {}

    def of(self, frame: VideoFrame) -> Look:
        def look(width: int, height: int) -> Frames:
            scale = self._sized.setdefault((width, height), VideoReformatter())
            scaled = scale.reformat(frame, width, height, "rgb24", interpolation=Interpolation.AREA)
            return np.asarray(scaled.to_ndarray(), np.uint8)

        return look


def _pictures(path: Path, recipe: Mapping[str, Any] | None) -> _Source:
    """A picture, or a folder's pictures in the order of their names. RequestError for a folder without any."""
    files = sorted(path.glob("*.png")) if path.is_dir() else [path]
    if not files:
        raise RequestError(f"'{path}' holds no PNG pictures")
    height, width = read_image(files[0]).shape[:2]
    fps = FOLDER_FPS
    with suppress(TypeError, ValueError, AttributeError, KeyError, ZeroDivisionError):
        fps = Fraction((recipe or {})["clip"]["fps"])

    def looks() -> Iterator[tuple[Look, None]]:
        small = _Scaler()
        for file in files:
            picture = read_image(file)
            if picture.shape[:2] != (height, width):
                size = f"{picture.shape[1]}x{picture.shape[0]}"
                raise RequestError(f"'{file}' has {size} pixels and the first picture {width}x{height}")
            yield small.of(VideoFrame.from_ndarray(picture, format="rgb24")), None

    return _Source(width, height, fps if fps > 0 else FOLDER_FPS, None, looks())


def _sync(picture: PictureFacts, head: Frames, sound_path: Path) -> Sync:
    wave = read_audio(sound_path, float(len(head) / picture.fps))
    return events.compare(head, picture.fps, wave, 44100)
