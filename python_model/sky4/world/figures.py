"""What stands in front: things with their textures, and talkers' heads. Coverages and colours at scene coordinates.

x, y: [F, H, W] in unit widths; time [F]; edge: a pixel's width. Pictures are [F, H, W, 3] in 0..1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sky4.world.scene import Scene
from sky4.world.shapes import SHAPE_DISTANCES
from sky4.world.take import Talker
from sky4.world.vocabulary import COLOURS

OUTLINE = 0.16  # width of the outline style's line, in radii
SKIN, INK = 0.82, 0.1  # how bright a head and its lines are against its colour


def thing_coverage(thing: Scene, time: Tensor, x: Tensor, y: Tensor, edge: float, *, outline: bool = False) -> Tensor:
    """How much of each point's pixel the thing covers, 0 to 1."""
    dx, dy, radius = _local(thing, time, x, y)
    distance = SHAPE_DISTANCES[thing.shape](dx, dy)
    if outline:
        distance = (distance + OUTLINE).abs() - OUTLINE
    return (0.5 - distance * radius / edge).clamp(0, 1)


def paint_thing(
    picture: Tensor, thing: Scene, time: Tensor, x: Tensor, y: Tensor, edge: float, outline: bool
) -> Tensor:
    """The picture with the thing over it."""
    alpha = thing_coverage(thing, time, x, y, edge, outline=outline)[..., None]
    colour = colour_of(thing.colour, x)
    if thing.texture == "solid":
        return torch.lerp(picture, colour.expand_as(picture), alpha)
    dx, dy, radius = _local(thing, time, x, y)
    share = _pattern(thing.texture, dx, dy, edge / radius)[..., None]
    return torch.lerp(picture, torch.lerp(colour, colour_of(thing.accent, x), share), alpha)


def _local(thing: Scene, time: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates in the thing's radii, and that radius [F, 1, 1]."""
    centre_x, centre_y = thing.position(time)
    radius = thing.radius_at(time)[:, None, None]
    return (x - centre_x[:, None, None]) / radius, (y - centre_y[:, None, None]) / radius, radius


def colour_of(name: str, like: Tensor) -> Tensor:
    return torch.tensor(COLOURS[name], device=like.device, dtype=torch.float32) / 255


def _pattern(texture: str, x: Tensor, y: Tensor, edge: Tensor) -> Tensor:
    """Share of the accent at (x, y) in radii."""

    def inside(distance: Tensor) -> Tensor:
        return (0.5 - distance / edge).clamp(0, 1)

    def cell(value: Tensor, width: float) -> Tensor:
        return torch.remainder(value, width) - width / 2

    if texture == "stripes":
        return inside(cell(y + 0.19, 0.76).abs() - 0.19)
    if texture == "dots":
        return inside(torch.hypot(cell(x, 0.66), cell(y, 0.66)) - 0.2)
    if texture == "checker":
        return inside(-cell(x, 1.0) * cell(y, 1.0) * 8)
    if texture == "two-tone":
        return inside(-x) + 0 * y
    return ((y + 1) / 2).clamp(0, 1) + 0 * x  # gradient


def paint_talker(picture: Tensor, talker: Talker, time: Tensor, x: Tensor, y: Tensor, edge: float) -> Tensor:
    """The picture with a head over it: face, hair, accessory, eyes, brows and mouth."""
    r = talker.radius
    u, v = (x - talker.x) / r, (y - 0.52) / r  # in head radii; v points down
    open_, brows = (value[:, None, None] for value in (talker.expression.aperture(time), talker.expression.brows(time)))
    skin = colour_of(talker.colour, x) * SKIN
    ink = torch.full_like(skin, INK)
    dark = colour_of(talker.colour, x) * 0.35

    def draw(under: Tensor, colour: Tensor, distance: Tensor) -> Tensor:
        alpha = (0.5 - distance * r / edge).clamp(0, 1)[..., None]
        return torch.lerp(under, colour.expand_as(under), alpha)

    head = _ellipse(u, v, 0.86, 1.0)
    picture = draw(picture, skin, head)
    if talker.hair == "cap":
        picture = draw(picture, dark, torch.maximum(_ellipse(u, v, 0.92, 1.06), v + 0.45))
    elif talker.hair == "spikes":
        saw = (torch.remainder(u + 2.0, 0.4) - 0.2).abs() * 1.6
        picture = draw(picture, dark, torch.maximum(torch.maximum(u.abs() - 0.8, v + 0.55), -(v + 1.28 - saw)))
    elif talker.hair == "bob":
        sides = torch.maximum((u.abs() - 0.86).abs() - 0.16, (v - 0.05).abs() - 0.65)
        picture = draw(picture, dark, torch.minimum(sides, torch.maximum(_ellipse(u, v, 1.0, 1.1), v + 0.5)))
    elif talker.hair == "mohawk":
        picture = draw(picture, dark, torch.maximum(u.abs() - 0.16, (v + 0.95).abs() - 0.4))
    for side in (-1.0, 1.0):
        picture = draw(picture, torch.ones_like(skin) * 0.95, _ellipse(u - 0.36 * side, v + 0.18, 0.17, 0.15))
        picture = draw(picture, ink, _ellipse(u - 0.36 * side, v + 0.18, 0.08, 0.1))
        slope = -0.25 * side * talker.expression.curve * (u - 0.36 * side)
        brow = torch.maximum((v + 0.5 + 0.12 * brows + slope).abs() - 0.06, (u - 0.36 * side).abs() - 0.2)
        picture = draw(picture, ink, brow)
        if talker.accessory == "glasses":
            picture = draw(picture, ink, (_ellipse(u - 0.36 * side, v + 0.18, 0.27, 0.25)).abs() - 0.035)
    if talker.accessory == "bow":
        picture = draw(picture, ink, torch.maximum(u.abs() - 0.4, (v - 1.1).abs() - 0.06 - 0.45 * u.abs()))
    if talker.accessory == "hat":
        hat = torch.minimum(
            torch.maximum(u.abs() - 0.55, (v + 1.15).abs() - 0.3),
            torch.maximum(u.abs() - 0.95, (v + 0.85).abs() - 0.08),
        )
        picture = draw(picture, ink, hat)
    bend = v - 0.5 - talker.expression.curve * 0.14 * (0.5 - (u / 0.36).square())
    if talker.expression.speech is not None:
        u = u / talker.expression.width(time)[:, None, None]
    return draw(picture, ink, _ellipse(u, bend, 0.36, 0.05 + 0.2 * open_))


def _ellipse(x: Tensor, y: Tensor, width: float, height: float | Tensor) -> Tensor:
    """Signed distance to an ellipse, to first order."""
    scaled = torch.hypot(x / width, y / height)
    gradient = torch.hypot(x / width**2, y / height**2).clamp(min=1e-4)
    return scaled * (scaled - 1) / gradient
