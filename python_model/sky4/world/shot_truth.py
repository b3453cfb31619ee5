"""The shot detector against the world's truth: stories that it was never shown, as pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from sky4.shots.detector import Transition, detect
from sky4.shots.network import ShotNetwork
from sky4.shots.scoring import Found, Score, Truth
from sky4.world.render import render_video
from sky4.world.stories import STORY_SECONDS, Story, sample_story

SEED = 2026  # of the stories that detectors are measured on
FPS = Fraction(16)
TOLERANCE = 1 / 16  # seconds

Frames = NDArray[np.uint8]


def truths(story: Story) -> list[Truth]:
    """Each join as a detector should tell it."""
    return [Truth(join.begin, join.end, join.optical, join.content) for join in story.joins]


def told(found: Sequence[Transition]) -> list[Found]:
    return [Found(float(one.begin), float(one.end), one.optical, one.content) for one in found]


def story_frames(story: Story, fps: Fraction = FPS, size: int = 64, seconds: float = STORY_SECONDS) -> Iterator[Frames]:
    """Frames [size, size, 3]."""
    video = render_video([story], round(seconds * fps), fps, size)[0]
    yield from np.asarray(video.permute(1, 2, 3, 0).add(1).mul(127.5).round().byte().numpy())


def score_stories(
    network: ShotNetwork,
    numbers: Sequence[int],
    through: Callable[[Iterator[Frames]], Iterator[Frames]] = iter,
    fps: Fraction = FPS,
    size: int = 64,
) -> Score:
    """The detector on the held-out stories of these numbers. through: what the pictures go through on their way."""
    score = Score()
    for number in numbers:
        story = sample_story(SEED, number, "heldout")
        found = list(detect(through(story_frames(story, fps, size)), fps, network))
        score.add(told(found), truths(story), TOLERANCE)
    return score
