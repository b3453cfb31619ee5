"""Rotary position embedding from positions as data (model.md, section 4).

    B batch   N tokens   H heads   d channels per head (d/2 interleaved pairs)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def angles(positions: Tensor, axes: Sequence[int], theta: float) -> Tensor:
    """The angle of every channel pair: positions [..., N, 3] (time, y, x) -> [..., N, d/2] float32, in radians.

    Axis a owns `axes[a]` channels of a head, that is pairs j = 0 .. axes[a]/2 - 1 with frequency theta^(-2j/axes[a]).
    """
    parts = []
    for axis, channels in enumerate(axes):
        pair = torch.arange(0, channels, 2, device=positions.device, dtype=torch.float32)
        parts.append(positions[..., axis : axis + 1].float() / theta ** (pair / max(channels, 1)))
    return torch.cat(parts, dim=-1)


def rotation(positions: Tensor, axes: Sequence[int], theta: float) -> Tensor:
    """The rotation of every token as unit complex numbers [1 or B, N, 1, d/2], for `rotate`."""
    angle = angles(positions, axes, theta)
    if angle.dim() == 2:
        angle = angle[None]
    return torch.polar(torch.ones_like(angle), angle)[:, :, None]


def temporal(positions: Tensor) -> Tensor:
    """The same times at y = x = 0: what the exchange between the towers sees of a position."""
    return positions * positions.new_tensor([1.0, 0.0, 0.0])


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Rotate the interleaved channel pairs of x [B, N, H, d] in float32; returns float32.

    A complex product, because torch runs it several times faster on the CPU than the same sums on strided halves.
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))  # [B, N, H, d/2]
    return torch.view_as_real(pairs * turn).flatten(-2)
