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
    """The rotation of every token as complex numbers of length 1, [1 or B, N, 1, d/2] (`ops.qk_norm_rope`)."""
    angle = angles(positions, axes, theta)
    if angle.dim() == 2:
        angle = angle[None]
    return torch.polar(torch.ones_like(angle), angle)[:, :, None]


def temporal(positions: Tensor) -> Tensor:
    """The same times at y = x = 0: what the exchange between the towers sees of a position."""
    return positions * positions.new_tensor([1.0, 0.0, 0.0])


def with_still(turn: Tensor, tokens: int) -> Tensor:
    """The rotation of a sequence that ends in `tokens` more without a position (text): they stay as they are."""
    batch, _, _, pairs = turn.shape
    return torch.cat([turn, turn.new_ones(batch, tokens, 1, pairs)], dim=1)
