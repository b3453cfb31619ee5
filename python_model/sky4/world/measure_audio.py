"""What a clip sounds like, measured in closed form: when things sound, of what they are made, and where.

S samples, E events. Times in seconds, places in unit widths from the left.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from sky4.world.sound import strike
from sky4.world.vocabulary import MATERIALS

Floats = NDArray[np.float64]

HOP = 1 / 344.5  # seconds, 2.9 ms: how finely onsets are first looked for
BESIDE = 0.025  # seconds of sound compared before and after a moment: two periods of the lowest drum
RISE = 4.0  # how many times the energy before an onset is that after it (6 dB; the softest rise of the world is 15 dB)
SHARE = 0.05  # an onset has at least this share of the energy of the clip's loudest one (-13 dB)
SILENT = 1e-6  # mean square below which nothing is heard (-60 dBFS)
REFINE = 0.012  # seconds on each side in which the exact moment is looked for
APART = 0.2  # seconds between two onsets
PAN_WINDOW = 0.05
SPECTRUM = 0.12  # seconds after an onset that tell the material
BANDS_PER_OCTAVE, LOWEST, OCTAVES = 8, 50.0, 7.5


@dataclass(frozen=True)
class AudioFacts:
    """What was measured; no material where nothing is heard."""

    material: str | None
    onsets: tuple[float, ...]  # seconds
    pans: tuple[float, ...]  # of each onset: 0 left, 1 right
    material_scores: dict[str, float]


def measure_audio(wave: NDArray[np.floating], rate: int) -> AudioFacts:
    """Measures a stereo wave [2, S] in -1..1. Raises ValueError for another layout."""
    if wave.ndim != 2 or wave.shape[0] != 2:
        raise ValueError(f"the wave must be stereo [2, S], got {list(wave.shape)}")
    sound = wave.astype(np.float64)
    power = np.square(sound).sum(0)
    onsets = _onsets(power, rate)
    if not onsets:
        return AudioFacts(None, (), (), {})
    scores = _material_scores(sound, onsets, rate)
    material = max(scores, key=lambda name: scores[name])
    pans = tuple(_pan(sound, onset, rate) for onset in onsets)
    return AudioFacts(material, tuple(onset / rate for onset in onsets), pans, scores)


def _onsets(power: Floats, rate: int) -> list[int]:
    """Samples at which the sound's energy rises at once, in order."""
    beside = round(BESIDE * rate)
    if len(power) < 2 * beside:
        return []
    total = np.concatenate([[0.0], np.cumsum(power)])
    at = np.arange(0, len(power), max(1, round(HOP * rate)))
    before = (total[at] - total[np.maximum(at - beside, 0)]) / beside
    after = (total[np.minimum(at + beside, len(power))] - total[at]) / beside
    # What is there before counts at least as the clip's quiet part, so that silence does not make a rise infinite.
    floor = max(SILENT, float(np.quantile(after, 0.1)), 0.003 * float(after.max()))
    ratio = after / (before + floor)
    loud = (ratio > RISE) & (after > SHARE * after.max())
    kept: list[int] = []
    for k in np.argsort(-ratio):
        if not loud[k]:
            continue
        moment = int(at[k])
        if all(abs(moment - other) >= APART * rate for other in kept):
            kept.append(moment)
    return sorted(_change_point(power, moment, rate) for moment in kept)


def _change_point(power: Floats, near: int, rate: int) -> int:
    """The sample about `near` that best splits its surroundings into a quiet and a loud part (by likelihood)."""
    beside, reach = round(BESIDE * rate), round(REFINE * rate)
    begin, end = max(0, near - beside), min(len(power), near + beside)
    total = np.concatenate([[0.0], np.cumsum(power[begin:end])]) + 1e-12
    at = np.arange(max(8, near - reach - begin), min(end - begin - 8, near + reach - begin))
    if len(at) == 0:
        return near
    quiet = total[at] / at
    loud = (total[-1] - total[at]) / (end - begin - at)
    cost = at * np.log(quiet + SILENT * 0.01) + (end - begin - at) * np.log(loud + SILENT * 0.01)
    return begin + int(at[np.argmin(cost)])


def _pan(sound: Floats, onset: int, rate: int) -> float:
    """Place 0..1 of a constant-power pan, what sounded just before taken off."""
    length = round(PAN_WINDOW * rate)
    heard = np.square(sound[:, onset : onset + length]).mean(1)
    before = sound[:, max(0, onset - length // 2) : max(0, onset - length // 20)]
    if before.shape[1] > 0:
        heard = np.maximum(heard - np.square(before).mean(1), 1e-3 * heard)
    left, right = np.sqrt(heard)
    return float(2 / np.pi * np.arctan2(right, left))


def _bands(sound: Floats, rate: int) -> Floats:
    """Energy of [C, S] in bands of an eighth of an octave, all channels together: [K]."""
    spectrum = np.square(np.abs(np.fft.rfft(sound * np.hanning(2 * sound.shape[1])[sound.shape[1] :], 8192))).sum(0)
    frequency = np.fft.rfftfreq(8192, 1 / rate)
    band = np.floor(np.log2(np.maximum(frequency, 1e-3) / LOWEST) * BANDS_PER_OCTAVE).astype(int)
    count = round(OCTAVES * BANDS_PER_OCTAVE)
    inside = (band >= 0) & (band < count)
    energy: Floats = np.bincount(band[inside], weights=spectrum[inside], minlength=count).astype(np.float64)
    return energy


def _profile(bands: Floats) -> Floats:
    """Bands to a comparable form: neighbours joined, square root, unit length."""
    joined = np.convolve(bands, [0.25, 0.5, 0.25], mode="same")
    root = np.sqrt(joined)
    return np.asarray(root / (np.linalg.norm(root) + 1e-12))


@cache
def _template(material: str, rate: int) -> Floats:
    wave = strike(material, rate, 0.0, round(SPECTRUM * rate)).numpy().astype(np.float64)
    return _profile(_bands(wave[None], rate))


def _material_scores(sound: Floats, onsets: list[int], rate: int) -> dict[str, float]:
    """Likeness (cosine) of the spectrum after the onsets with a strike of each material."""
    length = round(SPECTRUM * rate)
    after = np.zeros(round(OCTAVES * BANDS_PER_OCTAVE))
    before = np.zeros_like(after)
    for onset in onsets:
        piece = sound[:, onset : onset + length]
        after += _bands(np.pad(piece, ((0, 0), (0, length - piece.shape[1]))), rate)
        if onset >= length:
            before += _bands(sound[:, onset - length : onset], rate)
    heard = _profile(np.maximum(after - before, 0))  # what hisses all the time is not the material
    return {name: float(heard @ _template(name, rate)) for name in MATERIALS}
