"""The towers' inputs, made in one place for training and for sampling alike.

Order of a video tower's tokens: references, the sequence, high-resolution keyframes. Audio: references, the sequence.

Legend: B batch, C latent channels, T latent frames, H W latent grid, K keyframes, A audio tokens, N tokens, p patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from sky4.conditioning.inpaint import VideoCondition, concat_condition
from sky4.conditioning.references import AudioReferences, VideoReferences, real_tokens
from sky4.conditioning.tokens import (
    ShotSwitch,
    audio_positions,
    audio_reference_positions,
    keyframe_positions,
    patchify_video,
    reference_positions,
    unpatchify_video,
    video_positions,
)
from sky4.inputs import TowerInput


@dataclass(frozen=True)
class Keyframes:
    """High-resolution frames predicted beside the sequence: noisy [B, C, K, H, W], condition, latent frame of each."""

    noisy: Tensor
    condition: VideoCondition
    frames: tuple[int, ...]


def assemble_video(
    noisy: Tensor,
    condition: VideoCondition,
    references: VideoReferences | None,
    timestep: Tensor,
    *,
    patch: int = 2,
    start: float = 0.0,
    keyframes: Keyframes | None = None,
    switch: ShotSwitch | None = None,
) -> TowerInput:
    """The video tower's input from V = noisy [B, C, T, H, W], (I, M) = condition, references and timestep [B].

    start: this segment's place on the running time axis; switch: where another shot begins in it. Raises ValueError
    for a grid that the patch does not divide.
    """
    grid = noisy.shape[3] // patch, noisy.shape[4] // patch
    tokens = [patchify_video(concat_condition(noisy, condition), patch)]
    positions = [video_positions(noisy.shape[2], *grid, start=start, device=noisy.device, switch=switch)]
    segment = mask = None
    if keyframes is not None:
        high = keyframes.noisy.shape[3] // patch, keyframes.noisy.shape[4] // patch
        tokens.append(patchify_video(concat_condition(keyframes.noisy, keyframes.condition), patch))
        positions.append(keyframe_positions(keyframes.frames, high, grid, start, noisy.device))
    if references is not None:
        latents = references.latents.to(noisy.dtype)
        ones = VideoCondition(latents, torch.ones_like(latents[:, :1]))
        tokens.insert(0, patchify_video(concat_condition(latents, ones), patch))
        rows, columns = latents.shape[3] // patch, latents.shape[4] // patch
        positions.insert(0, reference_positions(latents.shape[2], rows, columns, noisy.device))
        mask = _padded(real_tokens(references, patch), sum(part.shape[1] for part in tokens))
    if keyframes is not None:
        segment = torch.zeros(sum(part.shape[1] for part in tokens), dtype=torch.int64, device=noisy.device)
        segment[-tokens[-1].shape[1] :] = 1
    return TowerInput(
        tokens=_joined(tokens, 1),
        positions=_joined(positions, 0),
        timestep=timestep,
        reference_tokens=0 if references is None else tokens[0].shape[1],
        segment=segment,
        mask=mask,
    )


def assemble_audio(
    noisy: Tensor,
    references: AudioReferences | None,
    timestep: Tensor,
    scale: Fraction | float,
    *,
    start: float = 0.0,
    switch: ShotSwitch | None = None,
) -> TowerInput:
    """The audio tower's input from noisy latents [B, A, C], references and timestep [B]; scale = T_v/T_a."""
    positions = audio_positions(noisy.shape[1], scale, start, noisy.device, switch)
    if references is None:
        return TowerInput(tokens=noisy, positions=positions, timestep=timestep)
    count = references.latents.shape[1]
    return TowerInput(
        tokens=torch.cat((references.latents.to(noisy.dtype), noisy), dim=1),
        positions=torch.cat((audio_reference_positions(count, scale, noisy.device), positions)),
        timestep=timestep,
        reference_tokens=count,
        mask=_padded(references.real, count + noisy.shape[1]),
    )


def video_velocity(tokens: Tensor, reference_tokens: int, shape: Sequence[int], patch: int = 2) -> Tensor:
    """The sequence's velocity [B, C, T, H, W] out of a video tower's output [B, N, C*p*p]; shape ends in (T, H, W)."""
    frames, height, width = shape[-3:]
    count = frames * (height // patch) * (width // patch)
    return unpatchify_video(tokens[:, reference_tokens : reference_tokens + count], shape, patch)


def keyframe_velocity(tokens: Tensor, shape: Sequence[int], patch: int = 2) -> Tensor:
    """The keyframes' velocity [B, C, K, H, W]: the tower's last tokens; shape ends in (K, H, W)."""
    frames, height, width = shape[-3:]
    count = frames * (height // patch) * (width // patch)
    return unpatchify_video(tokens[:, tokens.shape[1] - count :], shape, patch)


def audio_velocity(tokens: Tensor, reference_tokens: int) -> Tensor:
    """The sequence's velocity [B, A, C] out of an audio tower's output [B, N, C]."""
    return tokens[:, reference_tokens:]


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _padded(real: Tensor | None, count: int) -> Tensor | None:
    """The references' mask carried on over the tower's own tokens, all of which are real."""
    if real is None:
        return None
    return torch.cat((real, real.new_ones(real.shape[0], count - real.shape[1])), dim=1)
