"""Simple speech: digits as syllables, each a vowel that opens the mouth and sounds, from one control track for both.

A syllable's aperture rises and falls as a squared sine; its sound is the voice's harmonics through the vowel's
formants, as loud as the mouth is open. Sound and mouth are therefore together to the sample, at any rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LOUDNESS = 0.3  # peak of a syllable, about
HARMONICS = 24
BANDWIDTH = 110.0  # Hz of a formant
PAUSE = (0.18, 0.4)  # seconds between words


@dataclass(frozen=True)
class Vowel:
    """How far and how wide the mouth opens (1: the usual width), and the first two formants in Hz."""

    open: float
    width: float
    formants: tuple[float, float]


VOWELS: dict[str, Vowel] = {
    "a": Vowel(1.0, 1.0, (800, 1250)),
    "e": Vowel(0.7, 1.1, (520, 1900)),
    "i": Vowel(0.45, 1.2, (300, 2350)),
    "o": Vowel(0.8, 0.75, (450, 850)),
    "u": Vowel(0.5, 0.6, (320, 750)),
}
DIGITS: dict[str, str] = {  # the vowels of each word
    "zero": "io",
    "one": "a",
    "two": "u",
    "three": "i",
    "four": "o",
    "five": "ai",
    "six": "i",
    "seven": "ee",
    "eight": "ei",
    "nine": "ai",
}
DIGITS_ZH: dict[str, str] = {
    "zero": "零",
    "one": "一",
    "two": "二",
    "three": "三",
    "four": "四",
    "five": "五",
    "six": "六",
    "seven": "七",
    "eight": "八",
    "nine": "九",
}


@dataclass(frozen=True)
class Syllable:
    """A vowel from `begin` on, for `seconds`."""

    begin: float
    seconds: float
    vowel: str


@dataclass(frozen=True)
class Speech:
    """What is said, when, and in which voice: `pitch` in Hz, `tract` scales the formants."""

    words: tuple[str, ...]
    syllables: tuple[Syllable, ...]
    pitch: float
    tract: float = 1.0

    def aperture(self, time: Tensor) -> Tensor:
        """How far the mouth is open at `time`, 0 to 1. Any shape."""
        opened = torch.zeros_like(time)
        for syllable in self.syllables:
            opened = torch.maximum(opened, VOWELS[syllable.vowel].open * _bump(time, syllable))
        return opened

    def width(self, time: Tensor) -> Tensor:
        """How wide the mouth is at `time`; 1 at rest. Any shape."""
        wide = torch.ones_like(time)
        for syllable in self.syllables:
            wide = wide + (VOWELS[syllable.vowel].width - 1) * _bump(time, syllable)
        return wide

    def wave(self, samples: int, sample_rate: int, start: float = 0.0) -> Tensor:
        """Mono [samples], sample s at the time start + s / sample_rate."""
        wave = torch.zeros(samples, dtype=torch.float64)
        for syllable in self.syllables:
            first = max(0, math.ceil((syllable.begin - start) * sample_rate))
            last = min(samples, math.ceil((syllable.begin + syllable.seconds - start) * sample_rate))
            if first >= last:
                continue
            time = start + torch.arange(first, last, dtype=torch.float64) / sample_rate
            vowel = VOWELS[syllable.vowel]
            sound = torch.zeros_like(time)
            strengths = [_resonance(number * self.pitch, vowel, self.tract) for number in range(1, HARMONICS + 1)]
            for number, strength in enumerate(strengths, start=1):
                sound += strength / sum(strengths) * torch.sin(2 * math.pi * number * self.pitch * time)
            wave[first:last] += LOUDNESS * 2 * vowel.open * _bump(time, syllable) * sound
        return wave.float()


def _bump(time: Tensor, syllable: Syllable) -> Tensor:
    share = ((time - syllable.begin) / syllable.seconds).clamp(0, 1)
    return torch.sin(math.pi * share).square()


def _resonance(frequency: float, vowel: Vowel, tract: float) -> float:
    """How much of a harmonic passes: two resonances over a falling source."""
    passed = sum(1 / (1 + ((frequency - formant * tract) / BANDWIDTH) ** 2) for formant in vowel.formants)
    return (passed + 0.02) / math.sqrt(frequency)


def sample_speech(seed: int, index: int, seconds: float) -> Speech:
    """Digits said until `seconds`: a pure function of its arguments."""
    random = np.random.Generator(np.random.Philox(key=np.array([seed ^ 0x5A1D, index], dtype=np.uint64)))
    words: list[str] = []
    syllables: list[Syllable] = []
    at = float(random.uniform(0.1, 0.3))
    while True:
        word = list(DIGITS)[int(random.integers(len(DIGITS)))]
        said = []
        for vowel in DIGITS[word]:
            lasts = float(random.uniform(0.18, 0.28))
            said.append(Syllable(at, lasts, vowel))
            at += 0.9 * lasts
        if said[-1].begin + said[-1].seconds > seconds:
            break
        words.append(word)
        syllables += said
        at += float(random.uniform(*PAUSE))
    return Speech(tuple(words), tuple(syllables), float(random.uniform(95, 220)), float(random.uniform(0.88, 1.14)))
