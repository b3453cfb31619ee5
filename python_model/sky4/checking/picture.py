"""A look at every frame, small and grey: what is black, what stands still, and what is shown twice.

Nothing of a frame is kept but a picture of 16 x 16 of the last LOOK_BACK ones, so memory does not grow with the length.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sky4.checking.facts import Repeat, Span

SIDE, COARSE = 32, 16  # of the grey pictures that frames are compared by
BLACK = 26.0  # of 255: what no part of a black frame reaches (a tenth of full scale, as ffmpeg's blackdetect has it)
STILL = 2.0  # of 255: less than this anywhere, and nothing moved
ALIKE = 0.35  # of 255, on average: what encoding the same frame twice leaves; a pixel's movement of a thing is more
MOVING = 2 * ALIKE  # a frame's average step within a repeat, or it is a thing that stands still
LOOK_BACK = 1024  # frames

Grey = NDArray[np.float32]


class PictureMeter:
    """Takes frames one by one; spans of at least `shortest` frames are kept."""

    def __init__(self, shortest: int) -> None:
        self._shortest = max(2, shortest)
        self.frames = 0
        self._black: list[Span] = []
        self._frozen: list[Span] = []
        self._dark_since: int | None = None
        self._anchor: Grey | None = None
        self._anchor_at = 0
        self._repeats = _RepeatFinder(self._shortest)

    def add(self, small: Grey) -> None:
        """A frame, scaled to [SIDE, SIDE], grey of 0 to 255."""
        dark = float(small.max()) < BLACK
        if dark and self._dark_since is None:
            self._dark_since = self.frames
        if not dark:
            self._end_black()
        if self._anchor is None or dark or float(np.abs(small - self._anchor).max()) >= STILL:
            self._end_frozen()
            self._anchor, self._anchor_at = (None if dark else small), self.frames
        coarse = small.reshape(COARSE, SIDE // COARSE, COARSE, SIDE // COARSE).mean((1, 3))
        self._repeats.add(coarse.ravel())
        self.frames += 1

    def finish(self) -> tuple[tuple[Span, ...], tuple[Span, ...], tuple[Repeat, ...]]:
        """(black, frozen, repeated), each in order."""
        self._end_black()
        self._end_frozen()
        return tuple(self._black), tuple(self._frozen), self._repeats.finish()

    def _end_black(self) -> None:
        if self._dark_since is not None:
            self._black += self._kept(self._dark_since)
            self._dark_since = None

    def _end_frozen(self) -> None:
        if self._anchor is not None:
            self._frozen += self._kept(self._anchor_at)

    def _kept(self, first: int) -> Iterator[Span]:
        if self.frames - first >= self._shortest:
            yield Span(first, self.frames - first)


class _RepeatFinder:
    """For each lag, how many frames in a row look like the ones `lag` frames before them."""

    def __init__(self, shortest: int) -> None:
        self._shortest = shortest
        self._seen = np.zeros((LOOK_BACK, COARSE * COARSE), np.float32)  # ring; row k % LOOK_BACK holds frame k
        self._run = np.zeros(LOOK_BACK + 1, np.int64)  # of each lag; lag 0 is not used
        self._path_before = np.zeros(LOOK_BACK + 1)  # how far the picture had moved when the run began
        self._path = 0.0
        self._count = 0
        self._found: list[Repeat] = []

    def add(self, frame: Grey) -> None:
        number, lags = self._count, min(self._count, LOOK_BACK)
        if lags:
            distance = np.abs(self._seen[:lags] - frame).mean(1)  # by ring row
            row = (number - np.arange(1, lags + 1)) % LOOK_BACK
            by_lag = distance[row]
            self._path += float(by_lag[0])
            alike = np.zeros(LOOK_BACK + 1, bool)
            alike[1 : lags + 1] = by_lag < ALIKE
            begins = alike & (self._run == 0)
            self._path_before[begins] = self._path
            for lag in np.flatnonzero(~alike & (self._run >= self._shortest)):
                self._keep(int(lag), self._path - float(by_lag[0]))
            self._run = np.where(alike, self._run + 1, 0)
        self._seen[number % LOOK_BACK] = frame
        self._count += 1

    def _keep(self, lag: int, path: float) -> None:
        length = int(self._run[lag])
        if path - self._path_before[lag] >= MOVING * (length - 1):
            self._found.append(Repeat(Span(self._count - length, length), lag))

    def finish(self) -> tuple[Repeat, ...]:
        """Of repeats that lie over one another the longest, then the nearest; in order."""
        for lag in np.flatnonzero(self._run >= self._shortest):
            self._keep(int(lag), self._path)
        kept: list[Repeat] = []
        for found in sorted(self._found, key=lambda repeat: (-repeat.span.count, repeat.lag)):
            if all(found.span.end <= other.span.first or other.span.end <= found.span.first for other in kept):
                kept.append(found)
        return tuple(sorted(kept, key=lambda repeat: repeat.span.first))
