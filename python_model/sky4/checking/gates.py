"""The gates: each a small function from what was measured and its limit to a verdict."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from statistics import median
from typing import Any

from sky4.checking.facts import Facts, PictureFacts, Span
from sky4.errors import RequestError

PAIRS = 3  # events that must be seen and heard before their offsets say something of the clip
STEADY = 0.08  # seconds: offsets that differ by more among themselves are no lag
CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Limits:
    """What a clip may hold. RequestError for a limit that is none.

    In seconds: black, frozen, repeated (the longest such part), tail (sound against picture), offset (sound against
    events). Shares of all samples: clipped; of the sound's length: silent. LUFS: quietest, loudest. dBTP: true_peak.
    """

    black: float = 0.5
    frozen: float = 2.0
    repeated: float = 1.0
    tail: float = 0.05
    clipped: float = 0.001
    silent: float = 0.95
    quietest: float = -60.0
    loudest: float = -5.0
    true_peak: float = math.inf
    offset: float = 0.2

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            below = field.name not in ("quietest", "loudest", "true_peak") and value < 0
            if math.isnan(value) or below:
                raise RequestError(f"--max-{field.name} {value} is no limit; give a number of 0 or more")
        if self.quietest >= self.loudest:
            raise RequestError(
                f"--min-loudness {self.quietest} is not below --max-loudness {self.loudest}; no sound lies between"
            )


@dataclass(frozen=True)
class Verdict:
    """passed: None where the gate has nothing to judge. told: what was found, and which flag's limit it passes."""

    gate: str
    passed: bool | None
    told: str

    @property
    def failed(self) -> bool:
        return self.passed is False


Gate = Callable[[Facts, Limits], tuple[bool | None, str]]
NO_PICTURE, NO_SOUND = (None, "no picture"), (None, "no sound")


def judge(facts: Facts, limits: Limits, skip: Sequence[str] = ()) -> tuple[Verdict, ...]:
    """One verdict for each gate that is not skipped; of a file that does not decode, of that alone."""
    chosen = {name: gate for name, gate in GATES.items() if name not in skip}
    if facts.fault and "decodes" in chosen:
        chosen = {"decodes": chosen["decodes"]}
    return tuple(Verdict(name, *gate(facts, limits)) for name, gate in chosen.items())


def verdict_values(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """As JSON values: whether all passed, and what each gate says."""
    return {
        "passed": not any(verdict.failed for verdict in verdicts),
        "gates": {verdict.gate: {"passed": verdict.passed, "told": verdict.told} for verdict in verdicts},
    }


def _decodes(facts: Facts, _: Limits) -> tuple[bool | None, str]:
    if facts.fault:
        return False, f"it cannot be decoded to its end: {facts.fault}"
    if facts.picture is not None and facts.picture.frames == 0:
        return False, "it has a picture's stream and no frame in it"
    if facts.sound is not None and facts.sound.samples == 0:
        return False, "it has a sound's stream and no sample in it"
    return True, "decoded to the end"


def _frames(facts: Facts, _: Limits) -> tuple[bool | None, str]:
    if facts.picture is None:
        return NO_PICTURE
    stated, frames = facts.picture.stated_frames, facts.picture.frames
    if stated is not None and stated != frames:
        return False, f"it states {stated} frames and {frames} are in it"
    return True, f"{frames} frames"


def _rate(facts: Facts, _: Limits) -> tuple[bool | None, str]:
    if facts.picture is None:
        return NO_PICTURE
    if facts.picture.uneven:
        return False, f"its frames do not lie evenly at {facts.picture.fps} a second"
    return True, f"{facts.picture.fps} frames a second"


def _black(facts: Facts, limits: Limits) -> tuple[bool | None, str]:
    spans = () if facts.picture is None else facts.picture.black
    return _longest(facts.picture, spans, limits.black, "is black", "--max-black")


def _frozen(facts: Facts, limits: Limits) -> tuple[bool | None, str]:
    spans = () if facts.picture is None else facts.picture.frozen
    return _longest(facts.picture, spans, limits.frozen, "stands still", "--max-frozen")


def _repeated(facts: Facts, limits: Limits) -> tuple[bool | None, str]:
    spans = () if facts.picture is None else tuple(repeat.span for repeat in facts.picture.repeated)
    return _longest(facts.picture, spans, limits.repeated, "was shown before", "--max-repeated")


def _longest(
    picture: PictureFacts | None, spans: Sequence[Span], limit: float, does: str, flag: str
) -> tuple[bool | None, str]:
    if picture is None:
        return NO_PICTURE
    if not spans:
        return True, f"nothing {does}"
    longest = max(spans, key=lambda span: span.count)
    begin, end = (float(at / picture.fps) for at in (longest.first, longest.end))
    told = f"{begin:.2f} s to {end:.2f} s {does}"
    if end - begin > limit and picture.frames > 1:
        return False, f"{told}, more than {flag} {limit:g}"
    return True, told


def _tail(facts: Facts, limits: Limits) -> tuple[bool | None, str]:
    if facts.picture is None or facts.sound is None:
        return None, "no picture and sound to compare"
    picture, sound = facts.picture, facts.sound
    wanted = round(picture.seconds * sound.rate)
    told = f"{sound.samples} samples of sound under a picture of {wanted}"
    if abs(sound.seconds - picture.seconds) > Fraction(limits.tail):
        off = float(sound.seconds - picture.seconds)
        return (
            False,
            f"{told}: the sound ends {abs(off):.3f} s {'late' if off > 0 else 'early'}, --max-tail is {limits.tail:g}",
        )
    return True, told


def _clipping(facts: Facts, limits: Limits) -> tuple[bool | None, str]:
    if facts.sound is None:
        return NO_SOUND
    share = facts.sound.clipped / max(1, facts.sound.samples * facts.sound.channels)
    told = f"{share:.3%} of the samples are cut off at full scale"
    if share > limits.clipped:
        return False, f"{told}, more than --max-clipped {limits.clipped:g}"
    return True, told


def _silence(facts: Facts, limits: Limits) -> tuple[bool | None, str]:
    if facts.sound is None:
        return NO_SOUND
    share = facts.sound.silent / facts.sound.hundredths if facts.sound.hundredths else 0.0
    told = f"{share:.0%} of the sound is silent"
    if share > limits.silent:
        return False, f"{told}, more than --max-silent {limits.silent:g}"
    return True, told


def _loudness(facts: Facts, limits: Limits) -> tuple[bool | None, str]:
    if facts.sound is None:
        return NO_SOUND
    level, peak = facts.sound.loudness, facts.sound.true_peak
    if level is None:
        return None, "too short or too quiet to tell a loudness"
    told = f"{level:.1f} LUFS" + ("" if peak is None else f", peak {peak:.1f} dBTP")
    if level < limits.quietest:
        return False, f"{told}, below --min-loudness {limits.quietest:g}"
    if level > limits.loudest:
        return False, f"{told}, above --max-loudness {limits.loudest:g}"
    if peak is not None and peak > limits.true_peak:
        return False, f"{told}, above --max-true-peak {limits.true_peak:g}"
    return True, told


def _sync(facts: Facts, limits: Limits) -> tuple[bool | None, str]:
    if facts.sync is None:
        return None, "no picture and sound to compare"
    offsets = facts.sync.offsets
    if not facts.sync.seen:
        return None, "no events of a kind that is known were seen"
    if len(offsets) < PAIRS:
        return None, f"{len(offsets)} events are both seen and heard, too few to tell a lag"
    middle = median(offsets)
    spread = median(abs(offset - middle) for offset in offsets)
    told = f"the sound lies {middle * 1000:+.0f} ms from what is seen, in the middle of {len(offsets)} events"
    if spread > STEADY:
        return None, f"{told}, and they differ too much to tell a lag"
    if abs(middle) > limits.offset:
        return False, f"{told}, --max-offset is {limits.offset:g} s"
    return True, told


def _recipe(facts: Facts, limits: Limits) -> tuple[bool | None, str]:
    if facts.recipe is None:
        return False, "it holds no recipe"
    faults = recipe_faults(facts.recipe, facts, limits)
    return (
        (False, "; ".join(faults)) if faults else (True, f"version {facts.recipe.get('version')}, agrees with the file")
    )


def recipe_faults(recipe: Mapping[str, Any], facts: Facts, limits: Limits) -> list[str]:
    """What a recipe says of itself or of the file that does not hold."""
    request, latents = recipe.get("request"), recipe.get("latents")
    if isinstance(recipe.get("film"), Mapping):  # joined of clips, whose own files have recipes of this kind
        return _unlike(recipe.get("clip"), facts, limits)
    if not isinstance(request, Mapping) or not isinstance(recipe.get("model"), Mapping):
        return ["its recipe has no request or no model"]
    faults = []
    if not isinstance(latents, Mapping) or not latents or not set(latents) <= {"video", "audio"}:
        faults.append("its recipe has no checksums of latents")
    elif not all(isinstance(value, str) and CHECKSUM.fullmatch(value) for value in latents.values()):
        faults.append("a checksum of latents in its recipe is no SHA-256")
    # what was written, which differs from what was asked for a given video
    return [*faults, *_unlike(recipe.get("clip", request), facts, limits)]


def _unlike(given: Any, facts: Facts, limits: Limits) -> list[str]:
    """Where the file has not the frames and the rate that its recipe gives."""
    frames, fps = _frames_and_rate(given)
    if frames is None or fps is None:
        return ["its recipe does not say how many frames it has at which rate"]
    faults = []
    if facts.picture is not None:
        if facts.picture.frames != frames:
            faults.append(f"its recipe says {frames} frames and it has {facts.picture.frames}")
        # a container's clock may not hold the rate exactly: Matroska counts in milliseconds
        if facts.picture.frames > 1 and abs(facts.picture.fps / fps - 1) > Fraction(1, 1000):
            faults.append(f"its recipe says {fps} frames a second and it has {facts.picture.fps}")
    elif facts.sound is not None and abs(facts.sound.seconds - frames / fps) > Fraction(limits.tail):
        faults.append(f"its recipe says {float(frames / fps):.3f} s and it lasts {float(facts.sound.seconds):.3f} s")
    return faults


def _frames_and_rate(given: Any) -> tuple[int | None, Fraction | None]:
    try:
        frames, fps = int(given["frames"]), Fraction(given["fps"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None, None
    return (frames, fps) if fps > 0 else (None, None)


GATES: Mapping[str, Gate] = {
    "decodes": _decodes,
    "frames": _frames,
    "rate": _rate,
    "black": _black,
    "frozen": _frozen,
    "repeated": _repeated,
    "tail": _tail,
    "clipping": _clipping,
    "silence": _silence,
    "loudness": _loudness,
    "sync": _sync,
    "recipe": _recipe,
}
