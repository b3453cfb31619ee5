"""What is noticed where one piece of a clip ends and the next begins, beside the same inside the source.

Three steps, from one frame to the next: colour (of the mean colour, in levels of 255, largest channel), motion (mean
absolute difference of the frames, in levels), loudness (of the tenth of a second on either side, in decibels).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sky4.errors import RequestError
from sky4.media import sound_power
from sky4.media.write import SOUND_NAME

SIDE = 96  # pixels, about, of the shorter side that is looked at: steps of the whole picture show there
LOUDNESS_HERTZ, NEAR = 100, 10  # the sound's power is taken in hundredths of a second, ten of them on either side
SILENCE = 1e-3  # -60 dB: below it no step is heard


@dataclass(frozen=True)
class Steps:
    """The three steps at one frame; None where there is no such stream."""

    colour: float | None
    motion: float | None
    loudness: float | None


@dataclass(frozen=True)
class SeamReport:
    """The steps at each seam, and what is usual (the median) inside the source, else between the seams."""

    seconds: tuple[float, ...]
    seams: tuple[Steps, ...]
    usual: Steps

    def line(self) -> str:
        """For people: the worst of each step."""
        where = f"seam at {self.seconds[0]:.2f} s" if len(self.seams) == 1 else f"{len(self.seams)} seams, at worst"
        said = []
        for name, unit in (("colour", ""), ("motion", ""), ("loudness", " dB")):
            worst = max((getattr(seam, name) for seam in self.seams if getattr(seam, name) is not None), default=None)
            if worst is not None:
                said.append(f"{name} step {worst:.1f}{unit} (usual {getattr(self.usual, name):.1f}{unit})")
        return f"{where}: {', '.join(said)}"

    def values(self) -> dict[str, Any]:
        """For programs."""
        seams = [{"seconds": round(at, 6), **_rounded(seam)} for at, seam in zip(self.seconds, self.seams, strict=True)]
        return {"seams": seams, "usual": _rounded(self.usual)}


class SeamMeter:
    """Watches a clip being written, and listens to what was written; keeps two numbers a frame."""

    def __init__(self, seams: Sequence[int], given: range, fps: Fraction) -> None:
        self._seams, self._given, self._fps = list(seams), given, fps
        self._colour: list[float] = []
        self._motion: list[float] = []

    def frames(self, chunks: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        """The same chunks [f, H, W, 3]."""
        before: NDArray[np.int16] | None = None
        for chunk in chunks:
            every = max(1, min(chunk.shape[1:3]) // SIDE)
            for frame in chunk[:, ::every, ::every].astype(np.int16):
                before = frame if before is None else before
                self._colour.append(float(np.abs(frame.mean(axis=(0, 1)) - before.mean(axis=(0, 1))).max()))
                self._motion.append(float(np.abs(frame - before).mean()))
                before = frame
            yield chunk

    def report(self, written: Path) -> SeamReport | None:
        """What the frames, and the sound of the written file, have at the seams; None where the clip has none."""
        if not self._seams:
            return None
        heard = written / SOUND_NAME if written.is_dir() else written
        loudness = _loudness(heard) if heard.is_file() else None
        inside = self._given if len(self._given) > 1 else range(len(self._motion) or max(self._seams))
        usual = [self._steps(frame, loudness) for frame in inside[1:] if frame not in self._seams]
        at = tuple(float(frame / self._fps) for frame in self._seams)
        return SeamReport(at, tuple(self._steps(frame, loudness) for frame in self._seams), _median(usual))

    def _steps(self, frame: int, loudness: NDArray[np.float64] | None) -> Steps:
        shown, at, louder = bool(self._motion), round(frame / self._fps * LOUDNESS_HERTZ), None
        if loudness is not None:
            around = loudness[max(0, at - NEAR) : at], loudness[at : at + NEAR]
            before, after = (10 * np.log10(part.mean() + SILENCE**2) if part.size else 0.0 for part in around)
            louder = float(abs(after - before)) if around[0].size and around[1].size else 0.0
        return Steps(self._colour[frame] if shown else None, self._motion[frame] if shown else None, louder)


def _loudness(path: Path) -> NDArray[np.float64] | None:
    try:
        return sound_power(path, LOUDNESS_HERTZ)
    except RequestError:  # a silent clip
        return None


def _median(steps: Sequence[Steps]) -> Steps:
    def middle(name: str) -> float | None:
        found = [value for step in steps if (value := getattr(step, name)) is not None]
        return float(np.median(found)) if found else None

    return Steps(middle("colour"), middle("motion"), middle("loudness"))


def _rounded(steps: Steps) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 3) for name, value in asdict(steps).items()}
