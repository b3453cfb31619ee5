"""Odd real clips, made on the spot by libav: what users' cameras, phones, browsers and archives hand in.

Each shows a bar that moves a step a frame and plays a chirp, so that no two moments look or sound alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClipKind:
    """How a clip is made. times: of its frames, in 1/90000 s; None is every 1/fps."""

    suffix: str
    video: str = "libx264"
    audio: str | None = "aac"
    seconds: Fraction = Fraction(2)
    fps: Fraction = Fraction(25)
    size: tuple[int, int] = (64, 48)
    pixels: str = "yuv420p"
    rate: int = 44100
    layout: str = "stereo"
    aspect: Fraction = Fraction(1)
    rotation: int = 0
    variable: bool = False
    hostile: str = ""  # truncated, empty, zeros

    @property
    def shown(self) -> tuple[int, int]:
        """(width, height) as a player shows it, in square pixels."""
        width, height = round(self.size[0] * self.aspect), self.size[1]
        return (height, width) if self.rotation % 180 else (width, height)


GOOD = {
    "plain": ClipKind(".mp4"),
    "variable-rate": ClipKind(".mp4", variable=True),
    "rotated": ClipKind(".mp4", rotation=-90),
    "anamorphic": ClipKind(".mp4", aspect=Fraction(4, 3)),
    "ten-bit-hevc": ClipKind(".mp4", video="libx265", pixels="yuv420p10le"),
    "vp9-opus": ClipKind(".webm", video="libvpx-vp9", audio="libopus", rate=48000),
    "ntsc": ClipKind(".mp4", fps=Fraction(30000, 1001), seconds=Fraction(60 * 1001, 30000)),
    "odd-size": ClipKind(".mkv", video="ffv1", audio="flac", size=(97, 65), pixels="yuv444p"),
    "silent": ClipKind(".mp4", audio=None),
    "mono-8-khz": ClipKind(".mov", audio="pcm_s16le", rate=8000, layout="mono"),
    "mono-aac-8-khz": ClipKind(".mp4", rate=8000, layout="mono"),
    "pcm-mov": ClipKind(".mov", audio="pcm_s16le", rate=48000),
}
HOSTILE = {
    "truncated": ClipKind(".mp4", hostile="truncated"),
    "empty": ClipKind(".mp4", hostile="empty"),
    "zeros": ClipKind(".mp4", hostile="zeros"),
}
KINDS = {**GOOD, **HOSTILE}


class Clips:
    """The clips by name, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str) -> Path:
        kind = KINDS[name]
        path = self.folder / f"{name}{kind.suffix}"
        if not path.exists():
            write(path, kind)
            data = path.read_bytes()
            if kind.hostile:
                left = {"truncated": data[: len(data) // 2], "empty": b"", "zeros": bytes(len(data))}
                path.write_bytes(left[kind.hostile])
        return path


def frame_times(kind: ClipKind) -> list[Fraction]:
    """When each frame appears, in seconds; of a variable rate every third frame is shown for two."""
    steps = [2 if kind.variable and number % 3 == 2 else 1 for number in range(int(kind.seconds * kind.fps))]
    times = [Fraction(sum(steps[:number])) / kind.fps for number in range(len(steps))]
    return [time for time in times if time < kind.seconds]


def chirp(seconds: Fraction, rate: int, channels: int) -> NDArray[np.float32]:
    """[channels, S]: a tone that rises from 200 Hz to 1200 Hz, another a fifth above on the second channel."""
    time = np.arange(round(seconds * rate)) / rate
    sweep = 2 * np.pi * (200 * time + 500 * time**2 / float(seconds))
    return np.stack([0.4 * np.sin(sweep * (1 + channel / 2)) for channel in range(channels)]).astype(np.float32)


def bars(count: int, size: tuple[int, int]) -> Sequence[NDArray[np.uint8]]:
    width, height = size
    pictures = []
    for number in range(count):
        picture = np.full((height, width, 3), 40, np.uint8)
        left = 2 * number % (width - 8)
        picture[:, left : left + 8] = (230, 120, 20)
        pictures.append(picture)
    return pictures


def write(path: Path, kind: ClipKind) -> None:
    times = frame_times(kind)
    base = Fraction(1, 90000) if kind.variable else 1 / kind.fps
    with av.open(str(path), "w") as container:
        video = container.add_stream(kind.video, rate=kind.fps)
        video.width, video.height, video.pix_fmt, video.time_base = *kind.size, kind.pixels, base
        video.codec_context.time_base = base
        if kind.aspect != 1:
            video.codec_context.sample_aspect_ratio = kind.aspect
        if kind.rotation:
            video.set_display_rotation(kind.rotation)
        if kind.video == "libx265":
            video.codec_context.options = {"x265-params": "log-level=none", "preset": "ultrafast"}
        sound = None
        if kind.audio is not None:
            sound = container.add_stream(kind.audio, rate=kind.rate, layout=kind.layout)
        for time, picture in zip(times, bars(len(times), kind.size), strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(time / base), base
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None:
            wave = chirp(kind.seconds, kind.rate, 1 if kind.layout == "mono" else 2)
            heard = av.AudioFrame.from_ndarray(wave, format="fltp", layout=kind.layout)
            heard.sample_rate, heard.pts, heard.time_base = kind.rate, 0, Fraction(1, kind.rate)
            container.mux(sound.encode(heard))
            container.mux(sound.encode(None))
