"""A file's shots: what lies between its transitions, told one by one while the file is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sky4.media import iterate_video, probe_video
from sky4.shots.detector import Transition, detect
from sky4.shots.network import ShotNetwork


@dataclass(frozen=True)
class Shot:
    """The frames [first, end) of the file at fps; a gradual transition is halved between its two shots.

    then: what ends it; None for the last one.
    """

    number: int
    first: int
    end: int
    fps: Fraction
    then: Transition | None

    @property
    def begins(self) -> Fraction:
        """Seconds."""
        return self.first / self.fps

    @property
    def ends(self) -> Fraction:
        return self.end / self.fps

    def values(self) -> dict[str, Any]:
        """For programs."""
        return {
            "shot": self.number,
            "begin": round(float(self.begins), 6),
            "end": round(float(self.ends), 6),
            "frames": [self.first, self.end],
            "then": None if self.then is None else transition_values(self.then),
        }


def transition_values(found: Transition) -> dict[str, Any]:
    """For programs; a content of null could not be told apart."""
    return {
        "kind": found.optical,
        "content": found.content,
        "begin": round(float(found.begin), 6),
        "end": round(float(found.end), 6),
        "frame": found.frame,
        "confidence": round(found.confidence, 4),
        "content_confidence": round(found.content_confidence, 4),
    }


class FilmShots:
    """Reads a film once, while its shots are asked for. RequestError for what is no film."""

    def __init__(self, path: Path, network: ShotNetwork, watch: Callable[[int], None] | None = None) -> None:
        """watch: is told how many frames have been read, after each."""
        facts = probe_video(path)
        self.path, self.fps, self.network, self.watch = path, facts.fps, network, watch
        self.expected = facts.frames  # as the file says
        self.frames = 0  # read so far

    def __iter__(self) -> Iterator[Shot]:
        self.frames = 0
        first, number = 0, 1
        for found in detect(self._counted(iterate_video(self.path, self.fps)), self.fps, self.network):
            end = round((found.begin + found.end) / 2 * self.fps)
            yield Shot(number, first, end, self.fps, found)
            first, number = end, number + 1
        yield Shot(number, first, self.frames, self.fps, None)

    def _counted(self, frames: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        for frame in frames:
            self.frames += 1
            if self.watch is not None:
                self.watch(self.frames)
            yield frame
