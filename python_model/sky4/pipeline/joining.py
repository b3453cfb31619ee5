"""Seams that are not noticed: a new window takes on the colours of what it continues, and its sound is faded into.

Legend: f frames of a chunk, F frames, H W pixels, S samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FADE_SECONDS = 0.05  # long enough to hide a step, too short for a beat to be heard twice
MOST_GAIN = 1.5  # a window nearly without contrast says nothing of how much it lacks

Moments = tuple[NDArray[np.float64], NDArray[np.float64]]  # mean and deviation [3] of the colours


@dataclass(frozen=True)
class ColourMatch:
    """A gain and an offset per channel, which give made frames the mean and deviation of those that they continue."""

    gain: tuple[float, float, float]
    offset: tuple[float, float, float]

    @classmethod
    def between(cls, made: NDArray[np.uint8], kept: NDArray[np.uint8]) -> ColourMatch:
        """From frames [F, H, W, 3] that show the same thing, as made and as kept."""
        return cls.of_moments(_moments(made), _moments(kept))

    @classmethod
    def of_moments(cls, made: Moments, kept: Moments) -> ColourMatch:
        """From the mean and deviation [3] of what is made and of what it is to be like."""
        (made_mean, made_std), (kept_mean, kept_std) = made, kept
        gain = np.clip((kept_std + 1.0) / (made_std + 1.0), 1 / MOST_GAIN, MOST_GAIN)  # + 1: a level of noise in both
        offset = kept_mean - gain * made_mean
        return cls(_three(gain), _three(offset))

    def apply(self, frames: NDArray[np.uint8], strengths: Sequence[float]) -> NDArray[np.uint8]:
        """Frames [f, H, W, 3], each corrected to its strength, from 0 (not at all) to 1."""
        weights = np.asarray(strengths, np.float32)[:, None, None, None]
        gain, offset = np.asarray(self.gain, np.float32), np.asarray(self.offset, np.float32)
        moved = frames + weights * ((gain - 1.0) * frames + offset)
        return np.asarray(np.rint(moved).clip(0, 255), np.uint8)


def _moments(frames: NDArray[np.uint8]) -> Moments:
    """Mean and deviation [3] over frames, rows and columns."""
    return frames.mean(axis=(0, 1, 2)), frames.std(axis=(0, 1, 2))


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


@dataclass(frozen=True)
class SoundPiece:
    """A piece of the clip's sound: wave [2, S], whose first sample is the clip's sample `first`.

    begin, end: the clip's samples that it is there for. given: it is the user's own, and none of its samples changes.
    """

    wave: NDArray[np.float32]
    first: int
    begin: int
    end: int
    given: bool = False

    @property
    def last(self) -> int:
        """The clip's sample at which its wave ends."""
        return self.first + int(self.wave.shape[1])

    def around(self, begin: int, end: int) -> NDArray[np.float32]:
        """The clip's samples [begin, end), also beyond its wave: silence, or its mirror image where it is given.

        A given sound has nothing behind its end to be faded out; its last moments, turned round, go on without a step.
        """
        count = self.wave.shape[1]
        at = np.arange(begin, end) - self.first
        inside = (at >= 0) & (at < count)
        if self.given:
            at = np.where(at < 0, -at, np.where(at >= count, 2 * (count - 1) - at, at))
            inside = (at >= 0) & (at < count)
        return np.where(inside, self.wave[:, at.clip(0, count - 1)], np.float32(0))


def joined(sounds: Sequence[SoundPiece], samples: int, fade: int) -> NDArray[np.float32]:
    """One wave [2, samples] of pieces that follow each other, faded into one another over `fade` samples.

    The fade lies where both pieces have sound. A given piece is never faded: its neighbour is, over the given one's
    mirrored edge.
    """
    wave = np.zeros((2, samples), np.float32)
    for before, sound in zip((None, *sounds), sounds, strict=False):
        # a wave of whole tokens may end shortly ahead of its seam; the next one, which overlaps it, takes over there
        begin = sound.begin if before is None or before.given else min(sound.begin, before.last)
        heard = sound.wave[:, begin - sound.first : sound.end - sound.first]
        wave[:, begin : begin + heard.shape[1]] = heard
    for before, after in pairwise(sounds):
        begin, end = _fade_span(before, after, fade)
        angle = (np.arange(end - begin, dtype=np.float32) + 0.5) / max(1, end - begin) * (np.pi / 2)
        # equal power: the two are different sounds, and a linear fade would dip between them
        wave[:, begin:end] = np.cos(angle) * before.around(begin, end) + np.sin(angle) * after.around(begin, end)
    return wave


def _fade_span(before: SoundPiece, after: SoundPiece, fade: int) -> tuple[int, int]:
    """[begin, end) of the clip's samples: behind the seam where the earlier piece reaches over it, else ahead of it."""
    seam = after.begin
    if before.given or (not after.given and before.last >= seam + fade):
        return seam, min(seam + fade, after.end)
    end = seam if after.given else min(seam, before.last)
    return max(end - fade, before.begin), end
