"""Scenes to pixels: signed distances with analytic anti-aliasing, in torch, on any device.

B scenes, F frames, H = W = size.
"""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from sky4.world.scene import GROUND, Scene
from sky4.world.shapes import SHAPE_DISTANCES
from sky4.world.vocabulary import BACKGROUNDS, COLOURS


def coverage(scene: Scene, time: Tensor, size: int) -> Tensor:
    """How much of each pixel the object covers, 0 to 1: [F, size, size] for `time` [F]."""
    axis = (torch.arange(size, device=time.device, dtype=torch.float32) + 0.5) / size
    x, y = scene.position(time)
    radius = scene.radius_at(time)[:, None, None]
    dx = (axis[None, None, :] - x[:, None, None]) / radius
    dy = (axis[None, :, None] - y[:, None, None]) / radius
    distance = SHAPE_DISTANCES[scene.shape](*torch.broadcast_tensors(dx, dy))
    return (0.5 - distance * radius * size).clamp(0, 1)


def background(scene: Scene, size: int, device: torch.device | str = "cpu") -> Tensor:
    """The empty scene [3, size, size] in 0..1: a vertical gradient, and the ground where something bounces."""
    colour = torch.tensor(BACKGROUNDS[scene.background], device=device, dtype=torch.float32) / 255
    axis = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size
    picture = colour[:, None] * (1.15 - 0.3 * axis)[None, :]
    if scene.motion == "bounce":
        below = ((axis - GROUND) * size + 0.5).clamp(0, 1)
        picture = picture * (1 - below) + (colour[:, None] * 0.5 + 0.12) * below
    return picture[:, :, None].expand(3, size, size).clamp(0, 1)


def render_video(
    scenes: Sequence[Scene],
    frames: int,
    fps: Fraction | float,
    size: int,
    start: Sequence[float] | float = 0.0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Pixels [B, 3, F, size, size] in -1..1, frame f of scene b showing the time start[b] + f / fps."""
    starts = [start] * len(scenes) if isinstance(start, (int, float)) else list(start)
    steps = torch.arange(frames, device=device, dtype=torch.float32) / float(fps)
    pixels = torch.empty(len(scenes), 3, frames, size, size, device=device)
    for scene, begin, out in zip(scenes, starts, pixels, strict=True):
        alpha = coverage(scene, steps + begin, size)
        colour = torch.tensor(COLOURS[scene.colour], device=device, dtype=torch.float32) / 255
        behind = background(scene, size, device)[:, None]
        torch.lerp(behind.expand_as(out), colour[:, None, None, None].expand_as(out), alpha[None], out=out)
    return pixels.mul_(2).sub_(1)
