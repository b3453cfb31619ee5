"""How far a picture lags behind the sound that drives it: whatever in the picture moves with the sound most.

The picture is looked at in cells, each a track of brightness; the sound is a track of loudness. The lag is the shift at
which the two are most alike, in the cell where they are: a mouth that opens darkens its cell as the voice rises.

Legend: f frames of a chunk, F frames, C cells of a side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

CELLS = 16
FINE = 8  # shifts that are tried between two frames
WIDEST = Fraction(1, 2)  # seconds
LEAST = 24  # frames of which a lag can be told
PIECE = 1 << 18  # samples that are looked at at once
SURE = 0.4  # correlation from which something in the picture follows the sound


@dataclass(frozen=True)
class Lag:
    """frames: positive where the picture comes after the sound. likeness: the correlation, 0 to 1."""

    frames: float
    seconds: float
    likeness: float

    @property
    def follows(self) -> bool:
        """Whether anything in the picture follows the sound at all."""
        return self.likeness >= SURE

    def line(self) -> str:
        """For people."""
        if not self.follows:
            return f"nothing in the picture follows the sound (correlation {self.likeness:.2f})"
        return f"lips: {self.frames:+.1f} frames behind the sound (correlation {self.likeness:.2f})"

    def values(self) -> dict[str, Any]:
        """For programs."""
        return {
            "frames": round(self.frames, 3),
            "seconds": round(self.seconds, 4),
            "correlation": round(self.likeness, 4),
            "follows": self.follows,
        }


class LipMeter:
    """Watches a clip being written; keeps CELLS x CELLS numbers a frame."""

    def __init__(self, fps: Fraction) -> None:
        self._fps = fps
        self._cells: list[NDArray[np.float32]] = []

    def frames(self, chunks: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        """The same chunks [f, H, W, 3]."""
        for chunk in chunks:
            self._cells += [_cells(frame) for frame in chunk]
            yield chunk

    def lag(self, wave: NDArray[np.float32], rate: int, inside: NDArray[np.bool_] | None = None) -> Lag | None:
        """Beside a sound [2, S]; None for a clip too short to tell. inside [H, W]: where it is looked for."""
        if len(self._cells) < LEAST:
            return None
        cells = np.stack(self._cells)
        if inside is not None:
            grey = np.repeat(np.where(inside, np.uint8(255), np.uint8(0))[..., None], 3, axis=-1)
            of = _cells(grey) > 127
            if not of.any():  # less than half of any cell: the cells that it touches
                of = _cells(grey) > 0
            cells = cells[:, of]
        return lag_between(cells, wave, rate, self._fps)


def lag_between(cells: NDArray[np.float32], wave: NDArray[np.float32], rate: int, fps: Fraction) -> Lag:
    """cells: [F, n] tracks; wave [2, S] from the first frame on."""
    tracks = cells.reshape(len(cells), -1).astype(np.float64)
    tracks = _standard(tracks)
    fine = loudness(wave, rate, fps * FINE, len(cells) * FINE)
    widest = round(WIDEST * fps * FINE)
    best = (0.0, 0)
    for shift in range(-widest, widest + 1):
        at = np.arange(len(cells)) * FINE - shift  # the sound's moment that a frame shows
        inside = (at >= 0) & (at < len(fine))
        heard = _standard(fine[at[inside]][:, None])[:, 0]
        alike = float(np.abs(heard @ tracks[inside] / max(1, inside.sum())).max())
        # of two that are about as good the nearer to none
        if alike > best[0] + 1e-9 or (abs(alike - best[0]) < 1e-9 and abs(shift) < abs(best[1])):
            best = alike, shift
    frames = best[1] / FINE
    return Lag(frames, float(frames / fps), min(1.0, best[0]))


def loudness(wave: NDArray[np.float32], rate: int, steps: Fraction, count: int) -> NDArray[np.float64]:
    """[count]: how loud it is about each moment, `steps` of them a second, over a sixteenth of a second."""
    middle = np.arange(count) / float(steps) * rate
    begin, end = (np.clip(middle + side * rate / 32, 0, wave.shape[1]).astype(int) for side in (-1, 1))
    power = _energy_before(wave, np.concatenate([begin, end]))
    return np.asarray(np.sqrt(np.maximum(power[count:] - power[:count], 0) / np.maximum(end - begin, 1)))


def _energy_before(wave: NDArray[np.float32], places: NDArray[np.int_]) -> NDArray[np.float64]:
    """[N]: the sum of the squares before each of the samples `places` [N], a piece of the sound [2, S] at a time."""
    found, before = np.zeros(len(places)), 0.0
    for first in range(0, wave.shape[1], PIECE):
        part = wave[:, first : first + PIECE].astype(np.float64)
        energy = before + np.concatenate([[0.0], np.cumsum(np.square(part).mean(0))])
        here = (places >= first) & (places <= first + part.shape[1])
        found[here] = energy[places[here] - first]
        before = float(energy[-1])
    return found


def _cells(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[CELLS * CELLS] mean brightness."""
    height, width = (max(1, side // CELLS) for side in frame.shape[:2])
    grey = frame[: height * CELLS, : width * CELLS].mean(-1, dtype=np.float32)
    rows, columns = grey.shape[0] // height, grey.shape[1] // width
    return np.asarray(grey.reshape(rows, height, columns, width).mean((1, 3)).ravel(), np.float32)


def _standard(tracks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each column about its mean, of deviation 1; what hardly changes stays near 0."""
    centred = tracks - tracks.mean(0)
    return np.asarray(centred / (centred.std(0) + 1e-3))
