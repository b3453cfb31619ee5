"""A clip made from an identity, a sound and words: what is stated alone has no one picture, so its facts are measured.

F frames, H = W pixels, S samples.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from sky4.world.families import Family
from sky4.world.judge import Verdict
from sky4.world.measure_audio import measure_audio
from sky4.world.measure_video import VideoFacts, measure_video
from sky4.world.scene import Scene
from sky4.world.vocabulary import BACKGROUNDS, COLOURS, LEVEL_SHAPES, MATERIALS

LEVEL = 3
WAYS = 8  # that can be told: bounces on the spot, to the left, to the right, travels four ways, rests
APART = 50  # of 255: a pixel of the thing is so far from the backdrop (the palettes are at least 60 apart)


def judge_stated(
    family: Family, made: NDArray[np.uint8], wave: NDArray[np.floating], fps: Fraction, rate: int
) -> Verdict:
    """Edited: the picture shows the newcomer's colour and shape, the sound (stereo [2, S]) its material. Kept: its way
    and the backdrop are those that the words state."""
    thing = family.newcomer
    seen, material = measure_video(made, fps, LEVEL), measure_audio(wave, rate).material
    colours = {thing.colour} if thing.texture == "solid" else {thing.colour, thing.accent}
    asked: dict[str, tuple[object, object]] = {
        "colour": (_colour(made, seen) in colours, True),
        "shape": (seen.shape, thing.shape),
        "material": (material, thing.material),
    }
    stated: dict[str, tuple[object, object]] = {
        "way": ((seen.motion, seen.direction), _way(thing)),
        "backdrop": (seen.background, family.takes["transfer"].backdrop),
    }
    edit, keep = (", ".join(name for name, (is_, was) in facts.items() if is_ != was) for facts in (asked, stated))
    chance = len(colours) / len(COLOURS) / len(LEVEL_SHAPES[LEVEL]) / len(MATERIALS)
    return Verdict(not edit, not keep, edit, keep, chance, 1 / WAYS / len(BACKGROUNDS))


def _way(thing: Scene) -> tuple[str, str]:
    """(motion, direction) as they are measured: what circles or zigzags goes up and down like what bounces."""
    if thing.motion == "orbit":
        return "bounce", "none"
    if thing.motion == "zigzag":
        return "bounce", "left" if thing.vx < 0 else "right"
    return thing.motion, thing.direction


def _colour(made: NDArray[np.uint8], seen: VideoFacts) -> str | None:
    """The commonest colour of the palette where the thing is: of a striped thing, one of its two."""
    size = made.shape[1]
    axis = (np.arange(size) + 0.5) / size
    rows = np.median(made.transpose(1, 0, 2, 3).reshape(size, -1, 3), axis=1)  # [H, 3], as measure_video finds it
    apart = np.abs(made - rows[:, None]).max(-1) > APART
    names, palette = list(COLOURS), np.array(list(COLOURS.values()), np.float64)
    counted: Counter[str] = Counter()
    for frame, away, (x, y), radius in zip(made, apart, seen.track, seen.radius, strict=True):
        if np.isfinite(radius):
            inside = away & (np.hypot(axis[None] - x, axis[:, None] - y) < radius)
            nearest = np.square(frame[inside][:, None].astype(np.float64) - palette).sum(-1).argmin(1)
            counted.update(names[index] for index in nearest)
    return counted.most_common(1)[0][0] if counted else None
