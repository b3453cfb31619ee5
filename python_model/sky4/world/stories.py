"""Stories: a few shots one after another, and how each gives way to the next, with their exact times and kinds.

All shots of a story share one clock, so that what moves goes on moving across a cut. Two subjects share a place and
face each other; another place has two others. A cut-in comes nearer, a cut-out steps back, a reverse shot turns round
to the other subject, another angle sees the same one from behind and aslant, and a cut-away leaves for the other place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from sky4.shots.kinds import CONTENTS, OPTICALS, Content, Optical
from sky4.world.families import FAMILY_SECONDS, Family, sample_family
from sky4.world.scene import Event, Split
from sky4.world.take import Framing, Take
from sky4.world.vocabulary import BACKDROPS, WANDERINGS

STORY_SECONDS = 81 / 16
GRID = 0.25  # seconds: shots begin on it, half a sixteenth late, so that no frame of 16 a second lies on a boundary
LATE = 1 / 32
LEAST = 3  # steps of the grid that a shot is seen alone
CUTS = 0.5  # share of transitions that are plain cuts
FACES = 0.3  # share of stories whose first place has two heads that talk
ASIDE = 0.08  # unit widths: the two who face each other stand so far to one side and the other
CLOSE, LIVELY, WIDE = (0.45, 0.6), (0.6, 0.7), (0.95, 1.15)  # unit widths that a shot shows; LIVELY: a close one of a
# thing that goes up and down
LEAN = (0.12, 0.3)  # radians that another angle is aslant


@dataclass(frozen=True)
class Join:
    """How one shot gives way to the next, from `begin` on (seconds from the story's start) for `seconds`; a cut: 0."""

    begin: float
    seconds: float
    optical: Optical
    content: Content

    @property
    def end(self) -> float:
        return self.begin + self.seconds


@dataclass(frozen=True)
class Story:
    """2 to 4 takes, and a join between each and the next."""

    seed: int
    index: int
    takes: tuple[Take, ...]
    joins: tuple[Join, ...]

    def place(self, time: float) -> tuple[int, float]:
        """(the number of the take that is seen at `time`, how far it has given way to the next: 0 to below 1)."""
        shot = 0
        for number, join in enumerate(self.joins):
            if join.begin < time < join.end:
                return number, (time - join.begin) / join.seconds
            shot += time >= join.end
        return shot, 0.0

    def spans(self, seconds: float) -> list[tuple[float, float]]:
        """(begin, end) of each shot in a story of so many seconds, a transition halved between the two."""
        edges = [-math.inf, *(join.begin + join.seconds / 2 for join in self.joins), seconds]
        return [(max(0.0, begin), end) for begin, end in pairwise(edges)]

    def hits(self, until: float) -> list[tuple[str, Event]]:
        """(material, event) of all that is heard before `until`, at its place in the frame."""
        found: list[tuple[str, Event]] = []
        for take, (begin, end) in zip(self.takes, self.spans(until), strict=True):
            for thing in take.things if begin < end else ():
                for event in thing.events(begin, end - begin):
                    found.append((thing.material, replace(event, x=take.framing.seen_x(event.x))))
        return sorted(found, key=lambda hit: hit[1].time)


def sample_story(
    seed: int,
    index: int,
    split: Split = "train",
    level: int = 3,
    *,
    seconds: float = STORY_SECONDS,
    shots: int | None = None,
    contents: Sequence[Content] = CONTENTS,
    opticals: Sequence[Optical] = OPTICALS,
    slowest: int = 2,
    first: int | None = None,
) -> Story:
    """The story number `index` of the stream `seed`: a pure function of its arguments.

    shots: how many; None draws 2 to 4, as the seconds allow. slowest: of a transition, in steps of a quarter of a
    second. first: how many such steps the first shot lasts. Raises ValueError for more shots than fit.
    """
    random = np.random.Generator(
        np.random.Philox(key=np.array([seed ^ 0x5707, (index << 1) | (split == "heldout")], dtype=np.uint64))
    )
    steps = math.floor((seconds - LATE) / GRID)
    most = min(4, steps // LEAST)
    count = shots if shots is not None else int(random.integers(2, most + 1)) if most > 2 else 2
    if not 2 <= count <= max(most, 1):
        raise ValueError(f"a story of {seconds:g} s holds 2 to {most} shots, got {count}")
    kinds = [_optical(random, opticals) for _ in range(count - 1)]
    lengths = [0 if kind == "cut" else int(random.integers(1, slowest + 1)) for kind in kinds]
    while sum(lengths) + LEAST * count > steps:  # the longest transition gives way
        lengths[int(np.argmax(lengths))] -= 1
    kinds = [kind if length else "cut" for kind, length in zip(kinds, lengths, strict=True)]
    stage = _Stage(seed, index, split, level, seconds, random)
    said = stage.draw(contents, count - 1)
    slack = steps - sum(lengths) - LEAST * count
    cuts = np.sort(random.integers(0, slack + 1, count - 1))
    if first is not None:
        if not 0 <= first - LEAST <= slack:
            raise ValueError(
                f"the first of {count} shots in {seconds:g} s lasts {LEAST} to {LEAST + slack}, got {first}"
            )
        cuts = np.maximum(cuts, first - LEAST)
        cuts[0] = first - LEAST
    joins, at, before = [], 0, 0
    for kind, length, content, cut in zip(kinds, lengths, said, cuts.tolist(), strict=True):
        at += LEAST + cut - before
        joins.append(Join(at * GRID + LATE, length * GRID, kind, content))
        at, before = at + length, cut
    edges = [0.0, *(join.begin + join.seconds / 2 for join in joins), seconds]
    takes = [stage.take((begin + end) / 2) for begin, end in pairwise(edges[:2])]
    for join, (begin, end) in zip(joins, pairwise(edges[1:]), strict=True):
        stage.go(join.content)
        takes.append(stage.take((begin + end) / 2))
    return Story(seed, index, tuple(takes), tuple(joins))


def _optical(random: np.random.Generator, opticals: Sequence[Optical]) -> Optical:
    soft = [kind for kind in opticals if kind != "cut"]
    if "cut" in opticals and (not soft or random.random() < CUTS):
        return "cut"
    return soft[int(random.integers(len(soft)))]


class _Stage:
    """Where the camera stands: in which place, on whom, how near, from which side."""

    def __init__(
        self, seed: int, index: int, split: Split, level: int, seconds: float, random: np.random.Generator
    ) -> None:
        here, there = (
            sample_family(seed ^ 0x5707, index, split, level),
            sample_family(seed ^ 0x7075, index, split, level),
        )
        back = (seconds - FAMILY_SECONDS) / 2
        first = _heads(here) if random.random() < FACES else _things(here, back)
        if there.base.backdrop == first[0].backdrop:
            others = [name for name in BACKDROPS if name != first[0].backdrop]
            there = replace(there, base=replace(there.base, backdrop=others[int(random.integers(len(others)))]))
        self.places = (first, _things(there, back))
        self.random = random
        self.place = self.who = 0
        self.near = False
        self.behind = False
        self.lean = 0.0

    def draw(self, contents: Sequence[Content], count: int) -> list[Content]:
        """What the joins are by content; sets where the first shot stands, so that the first of them can be."""
        near: bool | None = None
        said: list[Content] = []
        for _ in range(count):
            fitting = [kind for kind in contents if (kind, near) not in (("cut-in", True), ("cut-out", False))]
            if not fitting:  # nearer and nearer does not go on: step back unseen
                fitting, near = list(contents), None
            kind = fitting[int(self.random.integers(len(fitting)))]
            if not said:
                self.near = kind == "cut-out" or (kind != "cut-in" and bool(self.random.random() < 0.4))
                near = self.near
            near = True if kind == "cut-in" else False if kind == "cut-out" else near
            said.append(kind)
        return said

    def go(self, content: Content) -> None:
        """Move as the transition says."""
        if content in ("cut-in", "cut-out"):
            self.near = content == "cut-in"
        elif content == "shot-reverse-shot":
            self.who, self.behind = 1 - self.who, not self.behind
        elif content == "multi-angle":
            self.behind = not self.behind
            self.lean = float(self.random.uniform(*LEAN)) * (-1 if self.lean > 0 else 1)
        else:
            self.place, self.who, self.behind, self.lean = 1 - self.place, 0, False, 0.0

    def take(self, middle: float) -> Take:
        """What is seen from there, framed for the shot's middle."""
        take = self.places[self.place][self.who]
        lively = bool(take.things) and take.things[-1].motion in ("bounce", *WANDERINGS)
        width = float(self.random.uniform(*((LIVELY if lively else CLOSE) if self.near else WIDE)))
        x, y = _focus(take, middle)
        if not self.near:  # half way after what moves, so that it is seen whole
            x, y = 0.5 * (0.5 + x) - ASIDE * (1 - 2 * self.who), 0.5
        return replace(take, framing=Framing(x, y, width, self.behind, self.lean))


def _things(family: Family, back: float) -> tuple[Take, Take]:
    """The two who share a place: the moving thing, and what could replace it, alone before the same backdrop."""
    take = family.base.with_thing(family.subject.set_back(back))
    return take, replace(take, things=(family.newcomer.set_back(back),), ground=take.bounces)


def _heads(family: Family) -> tuple[Take, Take]:
    return replace(family.takes["face shown"], ground=False), family.takes["face"]


def _focus(take: Take, time: float) -> tuple[float, float]:
    if take.talker is not None:
        return take.talker.x, 0.52
    thing = take.things[-1]
    around = thing.position(time + torch.linspace(-0.5, 0.5, 9) * thing.period)  # of what goes up and down the middle
    return float(around[0].mean()), float(around[1].mean())
