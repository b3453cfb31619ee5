"""A scene: every fact of one clip, as closed forms in time.

Coordinates are the unit square, x to the right and y down; times are seconds. The same scene therefore renders at any
frame rate, size and sample rate, and every event has one true time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sky4.world.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    DRIFTS,
    LEVEL_SHAPES,
    MATERIALS,
    MOTIONS,
    SIZES,
    TEMPI,
    WANDERINGS,
    is_held_out,
)

Split = Literal["train", "heldout"]

GROUND = 0.88  # y of the ground that things bounce on
BOUNCE_HEIGHT = 0.42  # apex of the lowest point over the ground
SPEED = 0.1  # unit widths a second: 5 s cross half of the frame
SWELL = 0.35  # how much larger a pulse makes the object at its beat
SWELL_DECAY = 0.14  # seconds
CLIP_SECONDS = 5.0  # the length that tracks are laid out for
ORBIT = 0.17  # radius of an orbit, in unit widths
ZIGZAG = 0.14  # how far a zigzag leaves its line


@dataclass(frozen=True)
class Event:
    """Something that is seen and heard at one moment."""

    time: float  # seconds from the scene's start
    x: float  # where, in unit widths: sets the stereo pan
    gain: float


@dataclass(frozen=True)
class Scene:
    """One thing that moves and sounds; on its plain background it is all of the world's level 1."""

    seed: int
    index: int
    level: int
    shape: str
    colour: str
    size: str
    motion: str  # one of MOTIONS, of WANDERINGS, or "static": no motion, no events
    drift: str  # of a bounce, one of DRIFTS; "none" for the other motions
    tempo: str
    material: str
    background: str
    x0: float  # centre at t = 0 (for a bounce y0 is not used)
    y0: float
    vx: float  # unit widths a second
    vy: float
    period: float  # seconds between events
    first: float  # seconds to the first event
    texture: str = "solid"  # one of TEXTURES
    accent: str = "white"  # the texture's second colour

    @property
    def direction(self) -> str:
        """Where the object goes: left, right, up, down, or "none" for a bounce in place."""
        return self.drift if self.motion == "bounce" else self.motion

    @property
    def place(self) -> str:
        """Third of the frame in which an object that does not travel sideways stays: left, middle, right."""
        return "left" if self.x0 < 0.4 else "right" if self.x0 > 0.6 else "middle"

    @property
    def radius(self) -> float:
        return SIZES[self.size]

    def since_beat(self, time: Tensor) -> Tensor:
        """Seconds since the last event; large before the first one. Any shape."""
        elapsed = time - self.first
        return torch.where(elapsed < 0, torch.full_like(elapsed, 1e3), torch.remainder(elapsed, self.period))

    def radius_at(self, time: Tensor) -> Tensor:
        """Radius at `time` in unit widths: a pulse swells at each beat and decays. Any shape."""
        if self.motion in ("bounce", "static", *WANDERINGS):
            return torch.full_like(time, self.radius)
        return self.radius * (1 + SWELL * torch.exp(-self.since_beat(time) / SWELL_DECAY))

    def position(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Centre (x, y) at `time`. Any shape."""
        x = self.x0 + self.vx * time
        phase = torch.remainder((time - self.first) / self.period, 1.0)
        if self.motion == "bounce":
            return x, GROUND - self.radius - BOUNCE_HEIGHT * 4 * phase * (1 - phase)
        if self.motion == "orbit":  # its events are at the top
            angle = 2 * torch.pi * phase
            return x + ORBIT * torch.sin(angle), self.y0 - ORBIT * torch.cos(angle)
        if self.motion == "zigzag":  # its events are at the corners below
            return x, self.y0 + ZIGZAG * (4 * (phase - 0.5).abs() - 1)
        return x, self.y0 + self.vy * time

    def set_back(self, seconds: float) -> Scene:
        """The same way begun so much earlier: where it was at t = 0, it is at t = seconds; its rhythm stays."""
        moved = replace(self, x0=self.x0 - self.vx * seconds)
        return moved if self.motion == "bounce" else replace(moved, y0=self.y0 - self.vy * seconds)

    def events(self, start: float, seconds: float) -> list[Event]:
        """The events with start <= time < start + seconds, in order."""
        if self.motion == "static":
            return []
        beat = max(0, int(np.ceil((start - self.first) / self.period)))
        events = []
        while (time := self.first + beat * self.period) < start + seconds:
            # an orbit is at the top of its circle, a zigzag at the foot of its line: both on x0 + vx t
            events.append(Event(time, self.x0 + self.vx * time, 1.0))
            beat += 1
        return events


def sample_scene(seed: int, index: int, split: Split = "train", level: int = 1) -> Scene:
    """The scene number `index` of the stream `seed`: a pure function of its arguments.

    `split` chooses between the shape-colour pairs that training shows and those that it never does.
    Raises ValueError for a level that the world does not have.
    """
    if level not in LEVEL_SHAPES:
        raise ValueError(f"level must be one of {sorted(LEVEL_SHAPES)}, got {level}")
    key = np.array([seed, (index << 1) | (split == "heldout")], dtype=np.uint64)
    random = np.random.Generator(np.random.Philox(key=key))

    def choose(options: object) -> str:
        words = list(options)  # type: ignore[call-overload]
        return str(words[int(random.integers(len(words)))])

    pairs = [(s, c) for s in LEVEL_SHAPES[level] for c in COLOURS if is_held_out(s, c) == (split == "heldout")]
    shape, colour = pairs[int(random.integers(len(pairs)))]
    motion = "bounce" if random.random() < 0.4 else choose(MOTIONS[1:])
    drift = choose(DRIFTS) if motion == "bounce" else "none"
    tempo = choose(TEMPI)
    direction = drift if motion == "bounce" else motion
    vx = {"left": -1.0, "right": 1.0}.get(direction, 0.0) * SPEED * random.uniform(0.9, 1.1)
    vy = {"up": -1.0, "down": 1.0}.get(direction, 0.0) * SPEED * random.uniform(0.9, 1.1)
    # A traveller starts so that the middle of its way is near the middle of the frame.
    x0 = 0.5 - vx * CLIP_SECONDS / 2 + random.uniform(-0.04, 0.04)
    if vx == 0.0:
        x0 = {"left": 0.28, "middle": 0.5, "right": 0.72}[choose(("left", "middle", "right"))] + random.uniform(
            -0.06, 0.06
        )
    y0 = 0.5 - vy * CLIP_SECONDS / 2 + random.uniform(-0.04, 0.04)
    if vy == 0.0:
        y0 = 0.5 + random.uniform(-0.1, 0.1)
    period = TEMPI[tempo] * random.uniform(0.96, 1.04)
    return Scene(
        seed=seed,
        index=index,
        level=level,
        shape=shape,
        colour=colour,
        size=choose(SIZES),
        motion=motion,
        drift=drift,
        tempo=tempo,
        material=choose(MATERIALS),
        background=choose(BACKGROUNDS),
        x0=float(x0),
        y0=float(y0),
        vx=float(vx),
        vy=float(vy),
        period=float(period),
        first=float(period * random.uniform(0.45, 0.55)),
    )
