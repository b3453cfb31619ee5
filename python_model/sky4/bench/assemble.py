"""The case of `latent_assemble`: the refiner's input, with keyframes and a source, against torch's own operations.

B = 1, C latent channels, T -> T2 latent frames, h, w -> H, W latent grid, K keyframes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sky4.bench import exact, ours
from sky4.bench.cases import OURS, Built, Candidate, Case, Setting
from sky4.bench.shapes import LatentShape
from sky4.ops.assemble_reference import latent_assemble_reference

COPIES = 8  # of the output, for torch's intermediates and the reference in float64


def assemble_cases(shape: LatentShape, setting: Setting, kernels: set[str]) -> list[Case]:
    """The one case of a shape, where `kernels` asks for it."""
    if "latent_assemble" not in kernels:
        return []
    frames, height, width = shape.high
    keyframe_count = 1 + (frames > 1)
    cells = math.prod(shape.high)

    def build() -> Built:
        generator, channels = setting.generator, shape.channels
        low = setting.randn(1, channels, *shape.low, generator=generator)
        noise = setting.randn(1, channels, *shape.high, generator=generator)
        keyframes = setting.randn(1, channels, keyframe_count, height, width, generator=generator)
        indices = torch.tensor([0, frames - 1][:keyframe_count])
        source = setting.randn(1, channels, *shape.high, generator=generator)
        keep_mask = torch.zeros(1, 1, *shape.high, dtype=setting.dtype, device=setting.device)
        keep_mask[..., width // 2 :] = 1  # half of the picture is kept

        def error(found: Tensor) -> float:
            exactly = latent_assemble_reference(
                low.double(), noise.double(), keyframes.double(), indices, source.double(), keep_mask
            )
            return exact.max_error(found, exactly)

        told: dict[str, Any] = {"error": error, "error_of": "output, all cells"}
        return Built(
            {
                OURS: Candidate(
                    lambda: ours.assemble(low, noise, keyframes, indices, source, keep_mask, setting.backend),
                    backend=ours.backend_of("latent_assemble", low, setting.backend),
                    **told,
                ),
                "torch composition": Candidate(
                    lambda: _composed(low, noise, keyframes, indices.to(low.device), source, keep_mask), **told
                ),
            }
        )

    size = setting.dtype.itemsize
    written = 2 * shape.channels * cells * size
    # noise, source and mask are read once; of the low latents every cell; the keyframes
    read = (2 * shape.channels + 1) * cells * size + shape.channels * math.prod(shape.low) * size
    read += shape.channels * keyframe_count * height * width * size
    name = f"latent_assemble {shape.name}"
    return [Case(name, build, None, read + written, COPIES * written * 8 // size)]


def _composed(
    low: Tensor, noise: Tensor, keyframes: Tensor, indices: Tensor, source: Tensor, keep_mask: Tensor
) -> Tensor:
    """As one writes it with torch's own interpolation: corners aligned in time, edges in space."""
    frames, height, width = noise.shape[2:]
    channels, low_frames, h, w = low.shape[1:]
    planes = low.float().reshape(1, channels * low_frames, h, w)
    spatial = F.interpolate(planes, (height, width), mode="bilinear", align_corners=False)
    lines = spatial.reshape(1, channels, low_frames, height * width)
    condition = F.interpolate(lines, (frames, height * width), mode="bilinear", align_corners=True)
    condition = condition.reshape(noise.shape).to(low.dtype)
    condition = condition.index_copy(2, indices, keyframes)
    return torch.cat([noise, torch.where(keep_mask == 1, source, condition)], dim=1)
