"""What `latent_assemble` computes, in plain torch: the specification of its kernels, and the path of other devices.

B batch, C latent channels, T -> T2 latent frames, h, w -> H, W latent grid, K keyframes.
"""

import torch
from torch import Tensor


def axis_corners(size: int, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """Corners aligned: index i of `target` lies at i (size - 1) / (target - 1); of T -> 2T - 1, frame 2j is frame j.

    Returns (low index [target] int64, upper neighbour [target] int64, the neighbour's weight [target] float64).
    """
    return _axis(torch.arange(target) * (size - 1), max(target - 1, 1), size)


def axis_edges(size: int, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cell edges aligned: cell i of `target` lies at (i + 1/2) size / target - 1/2, clamped to the grid.

    Returns (low index [target] int64, upper neighbour [target] int64, the neighbour's weight [target] float64).
    """
    return _axis((2 * torch.arange(target) + 1) * size - target, 2 * target, size)


def _axis(position: Tensor, denominator: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    # Whole numbers, so that a target that coincides with a low index has weight 0 and is copied exactly.
    position = position.clamp_min(0)
    low = (position // denominator).clamp_max(size - 1)
    return low, (low + 1).clamp_max(size - 1), (position % denominator).double() / denominator


def _interpolate(x: Tensor, dim: int, axis: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    low, high, weight = (part.to(x.device) for part in axis)
    weight = weight.to(x.dtype).view(-1, *[1] * (x.ndim - 1 - dim))
    return x.index_select(dim, low) * (1 - weight) + x.index_select(dim, high) * weight


def latent_assemble_reference(
    low: Tensor,
    noise: Tensor,
    keyframes: Tensor | None = None,
    keyframe_indices: Tensor | None = None,
    source: Tensor | None = None,
    source_mask: Tensor | None = None,
) -> Tensor:
    """As `latent_assemble`, on any device, with gradients; float64 is served too, in float64. Checks nothing."""
    grid = noise.shape[2:]
    x = low.to(torch.promote_types(low.dtype, torch.float32))  # [B, C, T, h, w]
    x = _interpolate(x, 3, axis_edges(x.shape[3], grid[1]))  # [B, C, T, H, w]
    x = _interpolate(x, 2, axis_corners(x.shape[2], grid[0]))  # [B, C, T2, H, w]
    x = _interpolate(x, 4, axis_edges(x.shape[4], grid[2]))  # [B, C, T2, H, W]
    condition = x.to(low.dtype)
    if keyframes is not None and keyframe_indices is not None:
        condition = condition.index_copy(2, keyframe_indices.to(low.device), keyframes)
    if source is not None and source_mask is not None:
        condition = torch.where(source_mask == 1, source, condition)
    return torch.cat([noise, condition], dim=1)  # [B, 2C, T2, H, W]
