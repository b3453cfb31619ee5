"""Where a film goes from one shot to the next: streaming, in memory that does not grow with its length.

Pictures are looked at at about 16 a second; the frame of a cut is then found among all frames between two of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray

from sky4.shots.features import (
    REACH,
    Floats,
    Thumbnails,
    frame_features,
    lasting_change,
    pair_features,
    thumbnail,
)
from sky4.shots.kinds import CONTENTS, OPTICALS, Content, Optical
from sky4.shots.network import SEES, ShotNetwork, probabilities

RATE = 16  # thumbnails a second, about
BLOCK = 512  # thumbnails of which the transitions are told at once
LONGEST = 64  # thumbnails of a transition
MARGIN = REACH + SEES + LONGEST  # thumbnails on either side of a block, so that it is seen as in the whole film
SURE = 0.5  # probability from which a transition, and its kind by content, is told
STILL = 1 / 512  # a step that changes less is none: half a level of 255
MAYBE = 0.15  # probability from which a cut is looked into
PROVEN = 0.42  # probability from which it is one: on 120 other stories about as many are then missed as made up
APART = 2  # thumbnails: nearer cuts are one, and shorter gaps in a gradual transition are none
AROUND = 3  # thumbnails of each shot beside a transition that its content is read from


# (first, last, kind, confidence). first: the first thumbnail that is no longer the old shot alone; last: the first that
# is the new one alone. For a cut they are the same.
Span = tuple[int, int, Optical, float]


@dataclass(frozen=True)
class Transition:
    """begin, end: seconds; of a cut both are the time of the new shot's first frame. frame: the first frame that shows
    the new shot alone. content: None where no kind is likely enough. confidence: probabilities."""

    begin: Fraction
    end: Fraction
    frame: int
    optical: Optical
    confidence: float
    content: Content | None
    content_confidence: float


@dataclass
class _Buffer:
    """Thumbnails from number `first` on, and of each how the frames that it stands for differ from those before."""

    first: int
    pictures: list[NDArray[np.uint8]]
    changes: list[NDArray[np.float32]]


def detect(frames: Iterable[NDArray[np.uint8]], fps: Fraction, network: ShotNetwork) -> Iterator[Transition]:
    """The transitions in order, of frames [H, W, 3] at fps; told at the latest half a minute after they are seen."""
    step = max(1, round(fps / RATE))
    held = _Buffer(0, [], [])
    told = 0
    for picture, change in _thumbnails(frames, step):
        held.pictures.append(picture)
        held.changes.append(change)
        if held.first + len(held.pictures) == told + BLOCK + MARGIN:
            yield from _of_block(held, told, told + BLOCK, fps, step, network)
            told += BLOCK
            drop = max(0, told - MARGIN - held.first)
            held = _Buffer(held.first + drop, held.pictures[drop:], held.changes[drop:])
    if held.pictures:
        yield from _of_block(held, told, held.first + len(held.pictures), fps, step, network)


def _thumbnails(
    frames: Iterable[NDArray[np.uint8]], step: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Every `step`-th frame's thumbnail, with the change at each frame since the last one [step]."""
    before: NDArray[np.uint8] | None = None
    changes: list[float] = []
    for number, frame in enumerate(frames):
        small = thumbnail(frame)
        changes.append(0.0 if before is None else float(np.abs(small.astype(np.int16) - before).mean()))
        before = small
        if number % step == 0:
            yield small, np.array(changes[-step:], np.float32)
            changes = []


def _of_block(
    held: _Buffer, begin: int, end: int, fps: Fraction, step: int, network: ShotNetwork
) -> Iterator[Transition]:
    """Those whose middle lies in the thumbnails [begin, end)."""
    pictures = np.asarray(np.stack(held.pictures) / 255, np.float32)
    chances = probabilities(network, torch.from_numpy(frame_features(pictures))).numpy()
    found = proven(spans(chances), pictures, network)
    for number, (first, last, optical, confidence) in enumerate(found):
        if not begin <= held.first + (first + last) // 2 < end:
            continue
        before = pictures[max(found[number - 1][1] if number else 0, first - AROUND, 0) : first]
        following = found[number + 1][0] if number + 1 < len(found) else len(pictures)
        after = pictures[last : max(last + 1, min(following, last + AROUND))]
        content, sure = _content(before, after, network)
        new = (held.first + last) * step
        old = (held.first + first - 1) * step + 1
        if optical == "cut":
            changes = held.changes[first]
            old = new = new - (len(changes) - 1) + int(np.argmax(changes))
        yield Transition(Fraction(old) / fps, Fraction(new) / fps, new, optical, confidence, content, sure)


def proven(found: list[Span], pictures: Thumbnails, network: ShotNetwork) -> list[Span]:
    """Of the cuts those that change the picture [T, S, S, 3] for good, with that as their confidence; of the gradual
    transitions those in which it changes from step to step."""
    kept: list[Span] = []
    for one in found:
        first, last, optical, chance = one
        if optical == "cut":
            with torch.inference_mode():
                logit = network.proven(torch.tensor([chance]), torch.from_numpy(around(pictures, first))[None])
            chance = float(logit.sigmoid())
            if chance < PROVEN:
                continue
        elif float(np.median(np.abs(np.diff(pictures[max(0, first - 1) : last + 1], axis=0)).mean((1, 2, 3)))) < STILL:
            continue
        kept.append((first, last, optical, chance))
    return kept


def around(pictures: Thumbnails, at: int) -> Floats:
    """What changes for good with thumbnail `at`."""
    return lasting_change(pictures[max(0, at - AROUND) : at], pictures[at : at + AROUND])


def _content(
    before: NDArray[np.float32], after: NDArray[np.float32], network: ShotNetwork
) -> tuple[Content | None, float]:
    if not len(before) or not len(after):
        return None, 0.0
    with torch.inference_mode():
        chances = network.pairs(torch.from_numpy(pair_features(before, after))[None]).softmax(-1)[0]
    best = int(chances.argmax())
    sure = float(chances[best])
    return (CONTENTS[best] if sure >= SURE else None), sure


def spans(chances: NDArray[np.float32]) -> list[Span]:
    """Each gradual transition, and each supposed cut, in probabilities [T, K], in order."""
    found: list[Span] = []
    soft = 1 - chances[:, 0] - chances[:, 1]
    inside = soft >= SURE
    for begin, end in _runs(inside):
        if end - begin < APART:
            continue
        sums = chances[begin:end, 2:].sum(0)
        found.append((begin, end, OPTICALS[1 + int(sums.argmax())], float(soft[begin:end].mean())))
    cut = chances[:, 1]
    for at in np.flatnonzero(cut >= MAYBE).tolist():
        near = cut[max(0, at - APART) : at + APART + 1]
        if cut[at] < near.max() or at == 0:
            continue
        if any(begin - 1 <= at <= end for begin, end, _, _ in found):
            continue
        found.append((at, at, "cut", float(cut[at])))
    return sorted(found)


def _runs(inside: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """[begin, end) of each run of True, those joined that are hardly apart."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], inside.astype(np.int8), [0]])))
    runs: list[tuple[int, int]] = []
    for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if runs and begin - runs[-1][1] < APART:
            runs[-1] = runs[-1][0], end
        else:
            runs.append((begin, end))
    return runs
