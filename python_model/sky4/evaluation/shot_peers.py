"""PySceneDetect on the stories that our shot detector is measured on, where it is installed (`sky4[scenedetect]`).

It tells where shots begin, not how: what it finds inside a gradual transition is not held against it, and its threshold
is the best of a few on these very stories.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from sky4.shots.scoring import Found, Score, Truth
from sky4.world.shot_truth import FPS, SEED, TOLERANCE, Frames, story_frames, truths
from sky4.world.stories import sample_story

SHORTEST = Fraction(1, 2)  # seconds of a shot; the world's last longer
CONTENT = (27.0, 20.0, 15.0, 10.0, 7.0)  # the first is its default
ADAPTIVE = (3.0, 2.0, 5.0)


@dataclass(frozen=True)
class PeerScore:
    """Of cuts. default: at the threshold that it comes with."""

    name: str
    threshold: float
    precision: float
    recall: float
    default: bool


def available() -> bool:
    return importlib.util.find_spec("scenedetect") is not None


def peer_scores(numbers: Sequence[int], fps: Fraction = FPS, size: int = 64) -> list[PeerScore]:
    """Both detectors at their own threshold, and at the best one; [] where PySceneDetect is not installed."""
    if not available():
        return []
    from scenedetect.detectors import AdaptiveDetector, ContentDetector

    shortest = max(1, round(SHORTEST * fps))
    makers: list[tuple[str, float, Callable[[], Any]]] = [
        *(("ContentDetector", value, partial(ContentDetector, value, shortest)) for value in CONTENT),
        *(("AdaptiveDetector", value, partial(AdaptiveDetector, value, shortest)) for value in ADAPTIVE),
    ]
    scores = [Score() for _ in makers]
    for number in numbers:
        story = sample_story(SEED, number, "heldout")
        frames, truth = list(story_frames(story, fps, size)), truths(story)
        for (_, _, make), score in zip(makers, scores, strict=True):
            score.add(_outside(_cuts(make(), frames, fps), truth), truth, TOLERANCE)
    told: list[PeerScore] = []
    for name, usual in (("ContentDetector", CONTENT[0]), ("AdaptiveDetector", ADAPTIVE[0])):
        own = [(value, score) for (of, value, _), score in zip(makers, scores, strict=True) if of == name]
        best = max(own, key=lambda pair: _balance(pair[1]))
        for value, score in own:
            if value in (usual, best[0]):
                told.append(PeerScore(name, value, score.precision("cut"), score.recall("cut"), value == usual))
    return told


def _cuts(detector: Any, frames: Sequence[Frames], fps: Fraction) -> list[Found]:
    """Its cuts in frames [H, W, 3]."""
    from scenedetect import FrameTimecode

    found: list[Any] = []
    last = FrameTimecode(0, float(fps))
    for number, frame in enumerate(frames):
        last = FrameTimecode(number, float(fps))
        found += detector.process_frame(last, np.ascontiguousarray(frame[..., ::-1]))  # it takes BGR
    found += detector.post_process(last)
    times = sorted({int(one.frame_num) for one in found})
    return [Found(float(at / fps), float(at / fps), "cut") for at in times]


def _outside(found: Sequence[Found], truth: Sequence[Truth]) -> list[Found]:
    """Those that do not lie inside a gradual transition."""
    soft = [one for one in truth if one.optical != "cut"]
    return [one for one in found if not any(s.begin - TOLERANCE <= one.begin <= s.end + TOLERANCE for s in soft)]


def _balance(score: Score) -> float:
    """F1 of cuts; 0 where nothing is found."""
    precision, recall = score.precision("cut"), score.recall("cut")
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
