"""Signed distances of the world's shapes: negative inside, in units of the shape's radius; y points down."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Distance = Callable[[Tensor, Tensor], Tensor]


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    dx, dy = x.abs() - half_width, y.abs() - half_height
    outside = torch.hypot(dx.clamp(min=0), dy.clamp(min=0))
    return outside + torch.maximum(dx, dy).clamp(max=0)


def _regular(x: Tensor, y: Tensor, sides: int, inradius: float) -> Tensor:
    """Regular polygon with a corner on top, as the intersection of half planes (a bound near its corners)."""
    distance = torch.full_like(x, -torch.inf)
    for side in range(sides):
        angle = math.pi * (2 * side + 1) / sides - math.pi / 2
        distance = torch.maximum(distance, x * math.cos(angle) + y * math.sin(angle))
    return distance - inradius


def circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 1.0


def square(x: Tensor, y: Tensor) -> Tensor:
    return _box(x, y, 0.84, 0.84)


def triangle(x: Tensor, y: Tensor) -> Tensor:
    return _regular(x, y - 0.22, 3, 0.6)


def hexagon(x: Tensor, y: Tensor) -> Tensor:
    return _regular(x, y, 6, 0.87)


def star(x: Tensor, y: Tensor, radius: float = 1.12, inner: float = 0.42) -> Tensor:
    """Five-pointed star: the plane is folded onto one half of one point, then a distance to one segment."""
    angle = torch.atan2(x, -y)  # 0 on top, clockwise
    sector = 2 * math.pi / 5
    folded = torch.abs(torch.remainder(angle + sector / 2, sector) - sector / 2)
    length = torch.hypot(x, y)
    px, py = length * torch.sin(folded), length * torch.cos(folded)
    tip_y, notch_x, notch_y = radius, inner * math.sin(sector / 2), inner * math.cos(sector / 2)
    edge_x, edge_y = notch_x, notch_y - tip_y
    along = ((px * edge_x + (py - tip_y) * edge_y) / (edge_x**2 + edge_y**2)).clamp(0, 1)
    distance = torch.hypot(px - along * edge_x, py - tip_y - along * edge_y)
    outside = px * -edge_y + (py - tip_y) * edge_x  # which side of the edge
    return torch.where(outside > 0, distance, -distance)


def ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.74).abs() - 0.26


def cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(_box(x, y, 1.0, 0.34), _box(x, y, 0.34, 1.0))


def diamond(x: Tensor, y: Tensor) -> Tensor:
    return (x.abs() / 0.72 + y.abs() / 1.08 - 1.0) * 0.6


def crescent(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(torch.hypot(x, y) - 1.0, 0.8 - torch.hypot(x - 0.5, y))


def arrow(x: Tensor, y: Tensor) -> Tensor:
    """Points to the right."""
    head = torch.maximum(-x, 0.7071 * (x + y.abs()) - 0.7071)
    return torch.minimum(head, _box(x + 0.45, y, 0.5, 0.3))


def drop(x: Tensor, y: Tensor) -> Tensor:
    cone = torch.maximum(0.866 * x.abs() - 0.5 * (y + 1.1), y - 0.01)
    return torch.minimum(torch.hypot(x, y - 0.36) - 0.64, cone)


def heart(x: Tensor, y: Tensor) -> Tensor:
    lobes = torch.hypot(x.abs() - 0.45, y + 0.3) - 0.52
    point = torch.maximum(0.76 * x.abs() + 0.65 * y - 0.64, -y - 0.3)
    return torch.minimum(lobes, point)


SHAPE_DISTANCES: dict[str, Distance] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "ring": ring,
    "cross": cross,
    "heart": heart,
    "hexagon": hexagon,
    "crescent": crescent,
    "arrow": arrow,
    "diamond": diamond,
    "drop": drop,
}
