"""Whether clips are what was asked for: measured facts against the facts of the prompts, each beside its chance level.

Everything works on arrays, so the same table comes out for rendered truth, for codec round trips and for a model.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sky4.world.captions import Facts, Kind, caption, parse
from sky4.world.lexicon import Language
from sky4.world.measure_audio import AudioFacts, measure_audio
from sky4.world.measure_video import VideoFacts, measure_video
from sky4.world.pairing import Pairing, pair_events
from sky4.world.scene import Scene, Split, sample_scene
from sky4.world.vocabulary import BACKGROUNDS, COLOURS, LEVEL_SHAPES, MATERIALS, SIZES, TEMPI

PROMPT_SEED = 2026
SYNCHRONOUS = 0.125  # seconds within which an event counts as seen and heard together
SHUFFLES = 8  # other clips that each clip's sound is laid under to find the chance level
SYNONYM_SEED = 77


@dataclass(frozen=True)
class Prompt:
    """A held-out scene and the words that ask for it."""

    scene: Scene
    text: str
    kind: Kind
    language: Language

    @property
    def asked(self) -> Facts:
        """What the words say; a clip is not blamed for what they leave open."""
        return parse(self.text)


@dataclass(frozen=True)
class MeasuredClip:
    """One clip's facts; video or audio is None where the clip has none."""

    video: VideoFacts | None
    audio: AudioFacts | None
    fps: Fraction
    seconds: float

    @property
    def pairing(self) -> Pairing:
        """Its seen and heard events; empty without picture or sound."""
        return _pairing(self, self)

    @property
    def tempo(self) -> str | None:
        """From the median time between events: the heard ones, or the seen ones of a silent clip."""
        times = self.audio.onsets if self.audio else self.video.events if self.video else ()
        if len(times) < 2:
            return None
        gap = float(np.median(np.diff(times)))
        return min(TEMPI, key=lambda name: abs(np.log(TEMPI[name] / gap)))


@dataclass(frozen=True)
class Measure:
    """One line of the table. `chance` is what clips that ignore the prompts (or each other's sound) would reach."""

    name: str
    value: float
    chance: float
    count: int  # prompts or events that it was measured on
    unit: str  # "share", "ms", "dB", "" (a plain number)


def world_prompts(n: int, split: Split = "heldout", seed: int = PROMPT_SEED, level: int = 1) -> list[Prompt]:
    """`n` scenes with captions, long and structured in turn, every fourth in Chinese: a pure function."""
    if n < 1:
        raise ValueError(f"the number of prompts must be at least 1, got {n}")
    prompts = []
    for index in range(n):
        scene = sample_scene(seed, index, split=split, level=level)
        random = np.random.default_rng([seed, index, SYNONYM_SEED])
        kind: Kind = "structured" if (index + index // 4) % 2 else "long"  # of the Chinese ones too, every other
        language: Language = "zh" if index % 4 == 3 else "en"
        prompts.append(Prompt(scene, caption(scene, kind, language, random), kind, language))
    return prompts


def measure_clip(
    frames: NDArray[np.uint8] | None,
    wave: NDArray[np.floating] | None,
    fps: Fraction | float,
    rate: int,
    level: int = 1,
) -> MeasuredClip:
    """Measures frames uint8 [F, H, W, 3] and a wave [2, S] in -1..1; either may be missing. ValueError for neither."""
    fps = Fraction(fps)
    if frames is not None:
        seconds = len(frames) / float(fps)
    elif wave is not None:
        seconds = wave.shape[1] / rate
    else:
        raise ValueError("a clip to measure needs frames or a wave, got neither")
    video = None if frames is None else measure_video(frames, fps, level)
    audio = None if wave is None else measure_audio(wave, rate)
    return MeasuredClip(video, audio, fps, seconds)


def psnr(frame: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Peak signal to noise ratio in dB of two uint8 pictures of one shape; equal ones count as 99 dB."""
    if frame.shape != reference.shape:
        raise ValueError(
            f"pictures to compare must have one shape, got {list(frame.shape)} and {list(reference.shape)}"
        )
    error = float(np.square(frame.astype(np.float64) - reference).mean())
    return min(99.0, float(10 * np.log10(255.0**2 / error))) if error > 0 else 99.0


def verdict(prompt: Prompt, clip: MeasuredClip) -> dict[str, bool]:
    """Which of the asked facts the clip shows or sounds: only those that the prompt states and the clip can have."""
    asked, found = prompt.asked, _found(clip)
    return {name: found[name] == value for name, value in _asked(asked).items() if value is not None and name in found}


def summarise(prompts: Sequence[Prompt], clips: Sequence[MeasuredClip]) -> list[Measure]:
    """The whole table for clips made from the prompts, in order. ValueError for lists of unequal length."""
    if len(prompts) != len(clips):
        raise ValueError(f"{len(prompts)} prompts and {len(clips)} clips do not belong together")
    level = prompts[0].scene.level
    choices = {
        "colour": len(COLOURS),
        "shape": len(LEVEL_SHAPES[level]),
        "direction": 5,
        "sound class": len(MATERIALS),
        "size": len(SIZES),
        "tempo": len(TEMPI),
        "background": len(BACKGROUNDS),
    }
    verdicts = [verdict(prompt, clip) for prompt, clip in zip(prompts, clips, strict=True)]
    table = []
    for name, ways in choices.items():
        right = [answers[name] for answers in verdicts if name in answers]
        if right:
            table.append(Measure(name, float(np.mean(right)), 1 / ways, len(right), "share"))
    if all(clip.video is not None and clip.audio is not None for clip in clips):
        table += _synchrony(clips) + _stereo(clips)
    return table


def report(prompts: Sequence[Prompt], clips: Sequence[MeasuredClip], table: Sequence[Measure]) -> dict[str, Any]:
    """The results as JSON values: the table, and for each clip what was asked, measured and matched."""
    rows = []
    for prompt, clip in zip(prompts, clips, strict=True):
        row: dict[str, Any] = {
            "prompt": prompt.text,
            "index": prompt.scene.index,
            "asked": _asked(prompt.asked),
            "measured": _found(clip),
            "right": verdict(prompt, clip),
        }
        if clip.video is not None:
            row["seen"] = [round(time, 4) for time in clip.video.events]
        if clip.audio is not None:
            row["heard"] = [round(time, 4) for time in clip.audio.onsets]
            row["pans"] = [round(pan, 4) for pan in clip.audio.pans]
        if clip.video is not None and clip.audio is not None:
            row["offsets"] = [round(offset, 4) for offset in clip.pairing.offsets]
        rows.append(row)
    return {"measures": [asdict(measure) for measure in table], "clips": rows}


def _asked(asked: Facts) -> dict[str, str | None]:
    return {
        "colour": asked.colour,
        "shape": asked.shape,
        "direction": asked.direction,
        "sound class": asked.material,
        "size": asked.size,
        "tempo": asked.tempo,
        "background": asked.background,
    }


def _found(clip: MeasuredClip) -> dict[str, str | None]:
    found: dict[str, str | None] = {"tempo": clip.tempo}
    if clip.video is not None:
        seen = clip.video
        found |= {"colour": seen.colour, "shape": seen.shape, "direction": seen.direction}
        found |= {"size": seen.size, "background": seen.background}
    if clip.audio is not None:
        found["sound class"] = clip.audio.material
    return found


def _pairing(seen: MeasuredClip, heard: MeasuredClip) -> Pairing:
    events = seen.video.events if seen.video else ()
    onsets = heard.audio.onsets if heard.audio else ()
    return pair_events(events, onsets, min(seen.seconds, heard.seconds))


def _shifts(n: int) -> list[int]:
    """How far the sounds are moved on to other clips; 0 alone cannot be shuffled."""
    return sorted({1 + k * max(1, (n - 1) // SHUFFLES) for k in range(SHUFFLES)} & set(range(1, n)))


def _synchrony(clips: Sequence[MeasuredClip]) -> list[Measure]:
    n = len(clips)
    own = [clip.pairing for clip in clips]
    others = [[_pairing(clips[i], clips[(i + shift) % n]) for i in range(n)] for shift in _shifts(n)]

    def line(name: str, of: Callable[[list[Pairing]], float], unit: str) -> Measure:
        chance = float(np.mean([of(pairings) for pairings in others])) if others else float("nan")
        return Measure(name, of(own), chance, n, unit)

    def agreement(pairings: list[Pairing]) -> float:
        close, events = zip(*(pairing.agreement(SYNCHRONOUS) for pairing in pairings), strict=True)
        return sum(close) / sum(events) if sum(events) else 0.0

    return [
        line("clips with matched events", lambda ps: float(np.mean([bool(p.offsets) for p in ps])), "share"),
        line("events in sync (F1, 125 ms)", agreement, "share"),
        line("median |offset|", lambda ps: 1000 * float(np.median([p.offset for p in ps])), "ms"),
        line("p90 |offset|", lambda ps: 1000 * float(np.quantile([p.offset for p in ps], 0.9)), "ms"),
        line("seen, not heard, per clip", lambda ps: float(np.mean([p.missing for p in ps])), ""),
        line("heard, not seen, per clip", lambda ps: float(np.mean([p.extra for p in ps])), ""),
    ]


def _stereo(clips: Sequence[MeasuredClip]) -> list[Measure]:
    """Pan of each onset against where the object is seen at that moment."""
    n = len(clips)

    def places(shift: int) -> NDArray[np.float64]:
        rows = []
        for i in range(n):
            video, audio = clips[i].video, clips[(i + shift) % n].audio
            assert video is not None and audio is not None
            rows += [(video.x_at(t, clips[i].fps), pan) for t, pan in zip(audio.onsets, audio.pans, strict=True)]
        both = np.array(rows, dtype=np.float64).reshape(-1, 2)
        seen: NDArray[np.bool_] = np.isfinite(both[:, 0])
        return both[seen]

    def correlation(both: NDArray[np.float64]) -> float:
        if len(both) < 3 or both.std(0).min() < 1e-6:
            return 0.0
        standard = (both - both.mean(0)) / both.std(0)
        return float((standard[:, 0] * standard[:, 1]).mean())

    def error(both: NDArray[np.float64]) -> float:
        return float(np.abs(both[:, 0] - both[:, 1]).mean()) if len(both) else 0.5

    own, others = places(0), [places(shift) for shift in _shifts(n)]
    lines = []
    for name, of in (("pan against x: correlation", correlation), ("pan against x: mean error (widths)", error)):
        chance = float(np.mean([of(both) for both in others])) if others else float("nan")
        lines.append(Measure(name, of(own), chance, len(own), ""))
    return lines
