"""What stands behind the things: plain gradients and drawn sceneries, as functions of scene coordinates.

Every colour is dark enough to be told from the things' palette. x, y: [..., H, W] in unit widths, any extent: a camera
may look beyond the first frame. Colours come back as [..., H, W, 3] in 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sky4.world.scene import GROUND
from sky4.world.vocabulary import BACKGROUNDS

Paint = Callable[[Tensor, Tensor, float], Tensor]


def paint_backdrop(name: str, x: Tensor, y: Tensor, edge: float, *, ground: bool) -> Tensor:
    """The backdrop `name` at (x, y); `edge` is a pixel's width. Plain ones get the ground where something bounces."""
    if name not in BACKGROUNDS:
        return SCENERIES[name](x, y, edge).clamp(0, 1)
    colour = _rgb(*BACKGROUNDS[name], like=x)
    picture = colour * (1.15 - 0.3 * y)[..., None]
    if ground:
        picture = _over(picture, colour * 0.5 + 0.12, _inside(GROUND - y, edge))
    return picture.clamp(0, 1)


def _rgb(red: float, green: float, blue: float, *, like: Tensor) -> Tensor:
    return torch.tensor((red, green, blue), device=like.device, dtype=torch.float32) / 255


def _inside(distance: Tensor, edge: float) -> Tensor:
    """Coverage of a signed distance in unit widths."""
    return (0.5 - distance / edge).clamp(0, 1)


def _over(picture: Tensor, colour: Tensor, alpha: Tensor) -> Tensor:
    return torch.lerp(picture.expand(*alpha.shape, 3), colour.expand(*alpha.shape, 3), alpha[..., None])


def _stripes(x: Tensor, y: Tensor, edge: float) -> Tensor:
    wave = torch.remainder(x, 0.25) - 0.125
    return _over(_rgb(20, 26, 60, like=x), _rgb(52, 62, 104, like=x), _inside(wave.abs() - 0.0625, edge) + 0 * y)


def _grid(x: Tensor, y: Tensor, edge: float) -> Tensor:
    across, along = (torch.remainder(axis + 0.125, 0.25) - 0.125 for axis in (x, y))
    line = torch.minimum(across.abs(), along.abs()) - 0.016
    return _over(_rgb(24, 30, 30, like=x), _rgb(92, 98, 98, like=x), _inside(line, edge))


def _beach(x: Tensor, y: Tensor, edge: float) -> Tensor:
    shore = 0.72 + 0.03 * torch.sin(2 * math.pi * x * 1.5)
    sea = _over(_rgb(20, 30, 76, like=x), _rgb(10, 62, 84, like=x), _inside(0.46 - y, edge) + 0 * x)
    return _over(sea, _rgb(102, 84, 52, like=x), _inside(shore - y, edge))


def _forest(x: Tensor, y: Tensor, edge: float) -> Tensor:
    column = torch.remainder(x, 0.25) - 0.125
    tree = column.abs() - (y - 0.18) * 0.22
    night = _over(_rgb(18, 32, 44, like=x), _rgb(10, 62, 26, like=x), _inside(torch.maximum(tree, 0.18 - y), edge))
    return _over(night, _rgb(34, 28, 14, like=x), _inside(0.8 - y, edge) + 0 * x)


def _city(x: Tensor, y: Tensor, edge: float) -> Tensor:
    block = torch.floor(x / 0.2)
    roof = 0.32 + 0.3 * torch.remainder(torch.sin(block * 12.9898) * 43758.5453, 1.0).abs()
    side = (torch.remainder(x, 0.2) - 0.1).abs() - 0.085
    houses = _over(_rgb(38, 22, 58, like=x), _rgb(62, 62, 78, like=x), _inside(torch.maximum(side, roof - y), edge))
    return _over(houses, _rgb(22, 22, 26, like=x), _inside(0.86 - y, edge) + 0 * x)


def _room(x: Tensor, y: Tensor, edge: float) -> Tensor:
    window = torch.maximum((x - 0.72).abs() - 0.16, (y - 0.34).abs() - 0.17)
    wall = _over(_rgb(84, 62, 52, like=x), _rgb(26, 44, 88, like=x), _inside(window, edge))
    frame = (window.abs() - 0.014).clamp(min=-1)
    return _over(
        _over(wall, _rgb(44, 30, 22, like=x), _inside(frame, edge)), _rgb(44, 26, 20, like=x), _inside(0.8 - y, edge)
    )


def _space(x: Tensor, y: Tensor, edge: float) -> Tensor:
    planet = torch.hypot(x - 0.78, y - 0.26) - 0.2
    ring = (torch.hypot((x - 0.78) / 2.0, (y - 0.26 + 0.3 * (x - 0.78)) * 2.4) - 0.15).abs() - 0.012
    sky = _over(_rgb(6, 6, 14, like=x), _rgb(74, 36, 96, like=x), _inside(planet, edge))
    return _over(sky, _rgb(104, 84, 96, like=x), _inside(ring, edge))


def _snowfield(x: Tensor, y: Tensor, edge: float) -> Tensor:
    hill = 0.66 + 0.07 * torch.sin(2 * math.pi * x * 0.9 + 0.6)
    drift = 0.8 + 0.04 * torch.sin(2 * math.pi * x * 1.7 + 2.0)
    far = _over(_rgb(34, 46, 70, like=x), _rgb(86, 94, 108, like=x), _inside(hill - y, edge))
    return _over(far, _rgb(112, 120, 132, like=x), _inside(drift - y, edge))


SCENERIES: dict[str, Paint] = {
    "stripes": _stripes,
    "grid": _grid,
    "beach": _beach,
    "forest": _forest,
    "city": _city,
    "room": _room,
    "space": _space,
    "snowfield": _snowfield,
}
