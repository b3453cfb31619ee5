"""In-context references: clean latents put before a tower's own tokens, at negative times.

All references of a sample are padded to one spatial size and joined in time, in prompt order, so that latent frame i
of N_cond lies at time -N_cond + i. Samples with fewer frames are padded in front: their last frame then lies at -1
like everybody's, and one set of positions serves the whole batch. What is padding is said by `real`.

Legend: B batch, C latent channels, R reference latent frames (N_cond), H W latent grid, A audio tokens (N_ref).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class VideoReferences:
    """Clean reference latents [B, C, R, H, W]; real [B, 1, R, H, W] bool, None where nothing is padding."""

    latents: Tensor
    real: Tensor | None = None

    def repeat(self, times: int) -> VideoReferences:
        """The batch `times` over, in whole copies, as batched guidance stacks its passes."""
        real = None if self.real is None else self.real.repeat(times, 1, 1, 1, 1)
        return VideoReferences(self.latents.repeat(times, 1, 1, 1, 1), real)


@dataclass(frozen=True)
class AudioReferences:
    """Clean reference latents [B, A, C]; real [B, A] bool, None where nothing is padding."""

    latents: Tensor
    real: Tensor | None = None

    def repeat(self, times: int) -> AudioReferences:
        """The batch `times` over, in whole copies."""
        real = None if self.real is None else self.real.repeat(times, 1)
        return AudioReferences(self.latents.repeat(times, 1, 1), real)


def join_video_references(samples: Sequence[Sequence[Tensor]], patch: int = 2) -> VideoReferences | None:
    """Join each sample's references, latents [C, R_i, H_i, W_i] in prompt order, into one batch.

    None where no sample has any. Raises ValueError where channels differ.
    """
    every = [latents for references in samples for latents in references]
    if not every:
        return None
    channels = _one_width({int(latents.shape[0]) for latents in every})
    frames = max(sum(int(latents.shape[1]) for latents in references) for references in samples)
    height = _round_up(max(int(latents.shape[2]) for latents in every), patch)
    width = _round_up(max(int(latents.shape[3]) for latents in every), patch)
    joined = every[0].new_zeros(len(samples), channels, frames, height, width)
    real = torch.zeros(len(samples), 1, frames, height, width, dtype=torch.bool, device=joined.device)
    for row, references in enumerate(samples):
        at = frames - sum(int(latents.shape[1]) for latents in references)
        for latents in references:
            count, rows, columns = latents.shape[1:]
            joined[row, :, at : at + count, :rows, :columns] = latents
            real[row, :, at : at + count, :rows, :columns] = True
            at += count
    return VideoReferences(joined, None if bool(real.all()) else real)


def join_audio_references(samples: Sequence[Sequence[Tensor]]) -> AudioReferences | None:
    """Join each sample's audio references, latents [A_i, C] in prompt order, into one batch; None where none is."""
    every = [latents for references in samples for latents in references]
    if not every:
        return None
    channels = _one_width({int(latents.shape[1]) for latents in every})
    tokens = max(sum(int(latents.shape[0]) for latents in references) for references in samples)
    joined = every[0].new_zeros(len(samples), tokens, channels)
    real = torch.zeros(len(samples), tokens, dtype=torch.bool, device=joined.device)
    for row, references in enumerate(samples):
        if references:
            clip = torch.cat(list(references))
            joined[row, tokens - len(clip) :] = clip
            real[row, tokens - len(clip) :] = True
    return AudioReferences(joined, None if bool(real.all()) else real)


def real_tokens(references: VideoReferences, patch: int = 2) -> Tensor | None:
    """[B, R*h*w] bool: a token is real where any of its latent cells is; None where all are."""
    if references.real is None:
        return None
    pooled = functional.max_pool2d(references.real[:, 0].float(), patch).to(torch.bool)  # [B, R, h, w]
    return None if bool(pooled.all()) else pooled.flatten(1)


def _one_width(widths: set[int]) -> int:
    if len(widths) != 1:
        raise ValueError(
            f"references of one request must come from one codec, got latents of {sorted(widths)} channels"
        )
    return widths.pop()


def _round_up(size: int, step: int) -> int:
    return -(-size // step) * step
