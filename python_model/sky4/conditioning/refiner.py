"""The refiner's input and what its output means (model.md, section 7).

I is the low-resolution clip interpolated to the high grid, with the high-resolution keyframes in their frames and the
high-resolution source wherever it is given; M = 1 where I is such a high-resolution latent, 0 where it is interpolated
(our choice: the tower's input then has the form that the video tower's has). Tokens are in cube order (ops/cubes.py).

A refiner may start from pixels instead (our choice): the clip decoded, `enlarged` and encoded again. A latent cell says
what lies in its own pixels, so that cells between two of them say nothing of an enlarged picture; where cells are large
that leaves the refiner to draw it all anew. Then `low` is on the high grid, and interpolating it changes nothing.

Legend: B batch, C latent channels, T -> T2 latent frames, h w -> H W latent grid, K keyframes, N tokens, p patch,
F -> F2 pixel frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sky4.conditioning.inpaint import VideoCondition, concat_condition
from sky4.conditioning.tokens import patchify_video, unpatchify_video, video_positions
from sky4.diffusion.flow import over
from sky4.inputs import Cubes, TowerInput
from sky4.ops.cubes import Grid, video_tiling
from sky4.ops.latent_assemble import latent_assemble

RESIDUAL = 0.7  # deviation of what interpolated latents lack; 0.68 was measured on the bundled codec, 64 to 128 pixels


def enlarged(pixels: Tensor, frames: int, height: int, width: int) -> Tensor:
    """[B, 3, F2, height, width] of pixels [B, 3, F, h, w] in -1..1: bicubic in space, linear in time.

    Frame j of F2 lies at j (F - 1) / (F2 - 1), as latents are interpolated: of 2F - 1 frames the even ones are F's.
    """
    batch, _, count = pixels.shape[:3]
    planes = pixels.transpose(1, 2).flatten(0, 1)
    planes = functional.interpolate(planes, (height, width), mode="bicubic", align_corners=False).clamp(-1, 1)
    large: Tensor = planes.unflatten(0, (batch, count)).transpose(1, 2)
    if frames != count:
        large = functional.interpolate(large, (frames, height, width), mode="trilinear", align_corners=True)
    return large


@dataclass(frozen=True)
class KeyframeLatents:
    """High-resolution frames: latents [B, C, K, H, W], and which of the T2 latent frames each is."""

    latents: Tensor
    frames: tuple[int, ...]


def refiner_condition(
    low: Tensor,
    noise: Tensor,
    keyframes: KeyframeLatents | None = None,
    source: VideoCondition | None = None,
) -> tuple[Tensor, VideoCondition]:
    """(V [B, C, T2, H, W], the noise; I and M on its grid) for low [B, C, T, h, w] and noise [B, C, T2, H, W].

    source: its own latents on the high grid, and where they hold. Raises ValueError for shapes that do not fit.
    """
    channels = low.shape[1]
    assembled = latent_assemble(
        low,
        noise,
        keyframes=None if keyframes is None else keyframes.latents.to(low),
        keyframe_indices=None if keyframes is None else torch.tensor(keyframes.frames, dtype=torch.int64),
        source=None if source is None else source.latents.to(low),
        source_mask=None if source is None else source.keep_mask.to(low),
    )
    known = torch.zeros_like(assembled[:, :1])
    if keyframes is not None:
        known[:, :, list(keyframes.frames)] = 1.0
    if source is not None:
        known = torch.maximum(known, (source.keep_mask == 1).to(known))
    return assembled[:, :channels], VideoCondition(assembled[:, channels:], known)


def assemble_refiner(
    noisy: Tensor, condition: VideoCondition, timestep: Tensor, *, density: float = 1.0, patch: int = 2
) -> TowerInput:
    """The refiner's input from V = noisy [B, C, T2, H, W], (I, M) = condition and timestep [B].

    density: the share of the cubes that each cube reads. Raises ValueError for a grid that the patch does not divide.
    """
    tokens = patchify_video(concat_condition(noisy, condition), patch)
    grid = _token_grid(noisy, patch)
    tiling = video_tiling(grid)
    positions = video_positions(*grid, device=noisy.device)
    return TowerInput(
        tokens=tiling.tile(tokens),
        positions=tiling.tile(positions[None])[0],
        timestep=timestep,
        cubes=Cubes(grid, density),
    )


def refiner_velocity(
    tokens: Tensor,
    noisy: Tensor,
    condition: VideoCondition,
    t: Tensor,
    patch: int = 2,
    residual: float = RESIDUAL,
) -> Tensor:
    """The velocity [B, C, T2, H, W] that the refiner's output [B, N, C*p*p] means at t [B]."""
    raster = video_tiling(_token_grid(noisy, patch)).untile(tokens)
    expected = expected_velocity(noisy, condition.latents, t, residual)
    return expected + unpatchify_video(raster, noisy.shape, patch).to(noisy)


def expected_velocity(noisy: Tensor, interpolated: Tensor, t: Tensor, residual: float = RESIDUAL) -> Tensor:
    """E[v | V, I] where the clip is I plus normal deviates of this deviation: what the network's output adds to.

    With V - t*I = t*r + (1 - t)*eps and v = I + r - eps it is I + k(t)*(V - t*I), k(t) = (t*s^2 - (1 - t)) /
    (t^2*s^2 + (1 - t)^2). At t = 0 it is I - eps: a network that says nothing gives the interpolated clip (our choice).
    """
    t = over(t, noisy)
    variance = residual**2
    gain = (t * variance - (1.0 - t)) / (t * t * variance + (1.0 - t) ** 2)
    return interpolated + gain * (noisy - t * interpolated)


def _token_grid(latents: Tensor, patch: int) -> Grid:
    return latents.shape[2], latents.shape[3] // patch, latents.shape[4] // patch
