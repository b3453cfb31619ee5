"""A take: everything that a camera sees and hears of levels 2 and 3, as one value.

Things on a backdrop, a talker, the camera's way, weather and light, a style, what is written over the picture, and an
effect. As a scene it is closed form in time, so a take renders at any size, frame rate and moment, and two takes that
differ in one field are an exact pair of before and after.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sky4.world.scene import Event, Scene
from sky4.world.speech import Speech

PAN_SPEED = 0.1  # unit widths a second
ZOOM_SPEED = 0.16  # natural logarithm of the magnification, a second
TALKING_BROWS = 0.3  # times a second that brows rise while somebody speaks
EFFECT_SECONDS = 2.0  # in which an effect runs from nothing to all


@dataclass(frozen=True)
class Framing:
    """What of the scene a shot shows: a square about (x, y), `width` unit widths wide, seen from one side or the other.

    mirrored: seen from behind. roll: how far the camera leans, in radians.
    """

    x: float = 0.5
    y: float = 0.5
    width: float = 1.0
    mirrored: bool = False
    roll: float = 0.0

    def scene(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Scene coordinates of the points (x, y) of the frame. Any shape."""
        across, along = (x - 0.5) * (-self.width if self.mirrored else self.width), (y - 0.5) * self.width
        cos, sin = math.cos(self.roll), math.sin(self.roll)
        return self.x + across * cos - along * sin, self.y + across * sin + along * cos

    def seen(self, x: float, y: float) -> tuple[float, float]:
        """Where in the frame the scene's point (x, y) is."""
        cos, sin = math.cos(self.roll), math.sin(self.roll)
        across, along = (x - self.x) * cos + (y - self.y) * sin, (y - self.y) * cos - (x - self.x) * sin
        return 0.5 + across / (-self.width if self.mirrored else self.width), 0.5 + along / self.width

    def shows(self, thing: Scene) -> Scene | None:
        """A thing as the frame has it, to be told of: its side and its way left or right; None where it stands still
        outside the frame."""
        if self == WHOLE:
            return thing
        x, y = self.seen(thing.x0, thing.y0)
        if thing.motion == "static" and not (0 < x < 1 and 0 < y < 1):
            return None
        if not self.mirrored:
            return replace(thing, x0=x)
        motion, drift = (_OTHER_WAY.get(way, way) for way in (thing.motion, thing.drift))
        return replace(thing, x0=x, vx=-thing.vx, motion=motion, drift=drift)

    def seen_x(self, x: float) -> float:
        """Where in the frame a thing at x stands, the roll left aside: sets its stereo pan."""
        return 0.5 + (x - self.x) / (-self.width if self.mirrored else self.width)


WHOLE = Framing()
_OTHER_WAY = {"left": "right", "right": "left"}


@dataclass(frozen=True)
class Overlay:
    """Something written over the finished picture: a watermark, a subtitle or a logo."""

    kind: str  # one of OVERLAYS
    text: str  # of a watermark or subtitle, capitals and digits
    corner: str = "top left"  # of a watermark or logo: top/bottom left/right


@dataclass(frozen=True)
class Expression:
    """How a face moves: the mouth opens `rate` times a second, or as it speaks, and curves; the brows rise and fall."""

    rate: float
    phase: float  # of the mouth, 0 to 1
    curve: float  # of the mouth: 1 smiles, -1 frowns
    brow_rate: float
    speech: Speech | None = None

    def aperture(self, time: Tensor) -> Tensor:
        """How far the mouth is open at `time`, 0 to 1. Any shape."""
        if self.speech is not None:
            return self.speech.aperture(time)
        return (torch.sin(2 * math.pi * (self.rate * time + self.phase)) * 0.5 + 0.5).square()

    def width(self, time: Tensor) -> Tensor:
        """How wide the mouth is at `time`, 1 at rest. Any shape."""
        return torch.ones_like(time) if self.speech is None else self.speech.width(time)

    def brows(self, time: Tensor) -> Tensor:
        """How far the brows are raised at `time`, -1 to 1. Any shape."""
        return torch.sin(2 * math.pi * self.brow_rate * time)


@dataclass(frozen=True)
class Talker:
    """A head: who it is (colour, hair, accessory), where, and how its face moves."""

    colour: str
    hair: str
    accessory: str
    expression: Expression
    x: float = 0.5
    radius: float = 0.3


@dataclass(frozen=True)
class Take:
    """One shot. Everything left at its default is level 1: a thing on a plain background."""

    things: tuple[Scene, ...]  # back to front; their own backgrounds do not count
    backdrop: str = "black"
    camera: str = "static"
    weather: str = "clear"
    light: str = "day"
    style: str = "flat"
    overlay: Overlay | None = None
    effect: str = "none"
    talker: Talker | None = None
    ground: bool = False  # drawn on a plain backdrop even where nothing bounces
    framing: Framing = WHOLE

    @classmethod
    def of(cls, scene: Scene) -> Take:
        """A scene of level 1 as a take."""
        return cls((scene,), scene.background)

    @property
    def bounces(self) -> bool:
        """Whether there is ground, because something needs it or because it is asked for."""
        return self.ground or any(thing.motion == "bounce" for thing in self.things)

    def with_thing(self, thing: Scene, place: int = -1) -> Take:
        """The take with another thing in place of one of its own."""
        things = list(self.things)
        things[place] = thing
        return replace(self, things=tuple(things))

    def viewed(self, time: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Scene coordinates of the points (x, y) of the frame at `time`: the framing and the camera's way, undone."""
        if self.framing != WHOLE:
            x, y = self.framing.scene(x, y)
        across = {"pan right": PAN_SPEED, "pan left": -PAN_SPEED}.get(self.camera, 0.0) * time
        along = {"tilt down": PAN_SPEED, "tilt up": -PAN_SPEED}.get(self.camera, 0.0) * time
        scale = torch.exp({"zoom in": -ZOOM_SPEED, "zoom out": ZOOM_SPEED}.get(self.camera, 0.0) * time)
        return 0.5 + (x - 0.5) * scale + across, 0.5 + (y - 0.5) * scale + along

    def events(self, start: float, seconds: float) -> list[Event]:
        """Of all things, in order of time, at their places in the scene."""
        events = [event for thing in self.things for event in thing.events(start, seconds)]
        return sorted(events, key=lambda event: event.time)


def talking(take: Take, speech: Speech) -> Take:
    """A take whose talker says something, and moves little else. ValueError where nobody is there to say it."""
    if take.talker is None:
        raise ValueError("a take without a talker says nothing")
    expression = replace(take.talker.expression, speech=speech, brow_rate=TALKING_BROWS)
    return replace(take, talker=replace(take.talker, expression=expression))
