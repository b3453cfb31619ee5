"""Takes that go on: what extending a clip forward or backward should come to, and what it might come to instead.

A family's base take laid out for twice its length is one truth for both directions: its first frames are given and the
rest is made, or its last ones are and what came before is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import torch

from sky4.world.families import Family, carried_on
from sky4.world.hypotheses import KEPT_BY_EXTENSION, Case, Hypothesis, hypotheses, other_ways
from sky4.world.scene import Scene
from sky4.world.tasks import Direction
from sky4.world.vocabulary import WANDERINGS


def extension_case(family: Family, direction: Direction, given: int, added: int, fps: Fraction) -> Case:
    """`given` frames known, `added` ones made after them or before; judged are the made ones alone.

    edits: other ways on from the seam. keeps: other things, backdrops and bystanders.
    """
    take = carried_on(family.base, float(added / fps))
    seam = (given - 1 if direction == "forward" else added) / float(fps)  # of the given frame next to the made ones
    edits = [Hypothesis(f"way: {name}", take.with_thing(thing)) for name, thing in _ways_on(take.things[-1], seam)]
    return Case(
        target=take,
        edits=tuple(edits),
        keeps=tuple(hypotheses(family, take, KEPT_BY_EXTENSION)),
        source=take,
        held=seam,
        start=float(given / fps) if direction == "forward" else 0.0,
    )


def _ways_on(thing: Scene, seam: float) -> Iterator[tuple[str, Scene]]:
    yield from other_ways(thing, seam)
    if thing.motion not in ("bounce", *WANDERINGS):
        x, y = (float(value) for value in thing.position(torch.tensor(seam)))
        for name, share in (("half as fast", 0.5), ("twice as fast", 2.0)):
            vx, vy = share * thing.vx, share * thing.vy
            yield name, replace(thing, vx=vx, vy=vy, x0=x - vx * seam, y0=y - vy * seam)
