"""High-resolution keyframes made beside the sequence: what is given of them, and both as one state for a sampler.

Legend: B batch, C latent channels, T latent frames, h w the sequence's grid, K keyframes, H W their grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from sky4.conditioning.assemble import Keyframes
from sky4.conditioning.inpaint import VideoCondition, on_path, path_velocity


@dataclass(frozen=True)
class KeyframePlan:
    """frames: the latent frame of each of the K. condition, noise [1, C, K, H, W]: as the sequence has them."""

    frames: tuple[int, ...]
    condition: VideoCondition
    noise: Tensor

    def at(self, noisy: Tensor, t: float, copies: int) -> Keyframes:
        """What the tower is given at time t of noisy [copies, C, K, H, W]."""
        condition = self.condition.repeat(copies)
        return Keyframes(on_path(noisy, self.noise, condition, t), condition, self.frames)

    def velocity(self, made: Tensor, copies: int) -> Tensor:
        """Kept cells move to what is given, the others as the model says."""
        return path_velocity(made, self.noise, self.condition.repeat(copies))


def keyframe_fill(black: Tensor, frames: int, grid: tuple[int, int]) -> Tensor:
    """I [1, C, K, H, W] where no keyframe is given: a black frame's latent, from black [1, C, T, h, w].

    The nearest cells of the low grid: so training and sampling have the same, and neither encodes a large black clip.
    """
    first = functional.interpolate(black[:, :, 0], size=grid, mode="nearest")
    return first[:, :, None].expand(-1, -1, frames, -1, -1)


def packed(sequence: Tensor, keyframes: Tensor) -> Tensor:
    """[B, C, T*h*w + K*H*W] of sequence [B, C, T, h, w] and keyframes [B, C, K, H, W]: elementwise they are alike."""
    return torch.cat((sequence.flatten(2), keyframes.flatten(2)), dim=2)


def unpacked(state: Tensor, shape: Sequence[int], keyframes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(sequence, keyframes) of a packed state [B, C, N]; their shapes end in (T, h, w) and (K, H, W)."""
    cells = prod(shape[-3:])
    low, high = state[:, :, :cells], state[:, :, cells:]
    return low.unflatten(2, tuple(shape[-3:])), high.unflatten(2, tuple(keyframes[-3:]))
