"""What is kept and what is made: the keep mask M, the condition latents I, and Concat(V, I, M) (report, inpainting).

The one convention of the mask: keep_mask 1 = condition, preserved; 0 = generated. Every task is a keep mask:
text-to-video all 0, image-to-video M[0] = 1, extension M[t<k] = 1, start-end M[0] = M[T-1] = 1, editing any shape.

Legend: B batch, C latent channels, T latent frames, H W latent grid, F pixel frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sky4.conditioning.reprojection import ShotGuess
from sky4.conditioning.tokens import ShotSwitch

Shape = tuple[int, int, int, int]  # (B, T, H, W) of the latents


@dataclass(frozen=True)
class VideoCondition:
    """The condition latents I [B, C, T, H, W] and the keep mask M [B, 1, T, H, W] of one batch.

    offset [B, C, T, H, W]: what the latents are made as a difference from, where a model is guided; zero where nothing
    is known of the clip.
    """

    latents: Tensor
    keep_mask: Tensor
    offset: Tensor | None = None

    def __post_init__(self) -> None:
        batch, _, frames, height, width = self.latents.shape
        if tuple(self.keep_mask.shape) != (batch, 1, frames, height, width):
            raise ValueError(
                f"a keep mask for latents {tuple(self.latents.shape)} must be {(batch, 1, frames, height, width)}, "
                f"got {tuple(self.keep_mask.shape)}"
            )

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> VideoCondition:
        offset = None if self.offset is None else self.offset.to(device, dtype)
        return VideoCondition(self.latents.to(device, dtype), self.keep_mask.to(device, dtype), offset)

    def repeat(self, times: int) -> VideoCondition:
        """The batch `times` over, in whole copies, as batched guidance stacks its passes."""
        whole = (times, 1, 1, 1, 1)
        offset = None if self.offset is None else self.offset.repeat(whole)
        return VideoCondition(self.latents.repeat(whole), self.keep_mask.repeat(whole), offset)

    def differing(self, latents: Tensor) -> Tensor:
        """Latents as the model makes them: their difference from the offset."""
        return latents if self.offset is None else latents - self.offset.to(latents.dtype)

    def whole(self, made: Tensor) -> Tensor:
        """The latents of a difference that the model made."""
        return made if self.offset is None else made + self.offset.to(made.dtype)


def condition_on(source: Tensor, keep_mask: Tensor, black: Tensor) -> VideoCondition:
    """I = the source's latents where kept, the latent of a black frame elsewhere.

    source [B, C, T, H, W]; keep_mask [B, 1, T, H, W]; black broadcasts to source.
    """
    kept = keep_mask.to(torch.bool)
    return VideoCondition(torch.where(kept, source, black.to(source)), keep_mask.to(source.dtype))


def guided_by(
    source: Tensor,
    keep_mask: Tensor,
    black: Tensor,
    known: Tensor | None = None,
    switch: ShotSwitch | None = None,
    guess: ShotGuess | None = None,
) -> VideoCondition:
    """As `condition_on`, with what is known of the clip in I where nothing is kept, and as the offset.

    known [B, C, T, H, W]: latents that the clip starts from, all of them known; None: what is kept of `source` is. A
    frame that keeps nothing is known as its nearest one that does (the earlier of two), or where none does, as `known`
    says; what is not known at all is black, and its offset zero. switch: where another shot begins, of which no more
    is known from the shot before than `guess` says.
    """
    keep = keep_mask > 0.5
    start, sure = (source, keep) if known is None else (known.to(source), torch.ones_like(keep))
    frames = torch.arange(keep.shape[2], device=keep.device)
    keeping = keep.flatten(3).any(3)[:, 0]  # [B, T]
    keeping = keeping | ~keeping.any(1, keepdim=True)
    apart = (frames[:, None] - frames).abs() + len(frames) * (~keeping)[:, None].long()  # [B, T, T]
    nearest = apart.argmin(2)[:, None, :, None, None]
    carried = torch.gather(start, 2, nearest.expand_as(start))
    sure = torch.gather(sure, 2, nearest.expand_as(sure))
    if switch is not None:
        behind = (frames >= switch.frame)[:, None, None]
        sure = sure & ((nearest >= switch.frame) == behind)
        if guess is not None:
            guessed = behind & ~sure & guess.known[:, None, None, None, None]
            carried, sure = torch.where(guessed, guess.latents, carried), sure | guessed
    latents = torch.where(keep, source, torch.where(sure, carried, black.to(source)))
    return VideoCondition(latents, keep_mask.to(source.dtype), torch.where(sure, latents, 0.0))


def unconditioned(black: Tensor, batch: int = 1) -> VideoCondition:
    """Text-to-video: I is the black clip's latent [1, C, T, H, W], nothing is kept."""
    latents = black.expand(batch, *black.shape[1:])
    return VideoCondition(latents, torch.zeros_like(latents[:, :1]))


def keep_nothing(shape: Shape) -> Tensor:
    """M = 0 everywhere: text-to-video. [B, 1, T, H, W] float32, as all masks here."""
    batch, frames, height, width = shape
    return torch.zeros(batch, 1, frames, height, width)


def keep_first(shape: Shape, frames: int = 1) -> Tensor:
    """M[t < frames] = 1: image-to-video (1) and extension (k latent frames)."""
    keep = keep_nothing(shape)
    keep[:, :, : _within(frames, shape)] = 1.0
    return keep


def keep_last(shape: Shape, frames: int = 1) -> Tensor:
    """M = 1 on the last `frames` latent frames: extension backwards."""
    keep = keep_nothing(shape)
    keep[:, :, shape[1] - _within(frames, shape) :] = 1.0
    return keep


def keep_ends(shape: Shape) -> Tensor:
    """M[0] = M[T-1] = 1: a film between a first and a last frame."""
    return torch.maximum(keep_first(shape), keep_last(shape))


def keep_where(region: Tensor, spatial: int = 8, temporal: int = 4) -> Tensor:
    """The latent keep mask [B, 1, T, H, W] of a pixel keep region [B, 1, F, Hp, Wp], 1 = keep.

    A latent cell is kept only where every pixel of every frame that it covers is kept: a minimum over `spatial` x
    `spatial` pixels and over the causal groups of 1, 4, 4, ... frames. Raises ValueError for sizes that the codec
    does not make.
    """
    batch, one, frames, height, width = region.shape
    if one != 1 or (frames - 1) % temporal or height % spatial or width % spatial:
        raise ValueError(
            f"a keep region must be [B, 1, {temporal}n+1, {spatial}h, {spatial}w], got {tuple(region.shape)}"
        )
    edited = functional.max_pool2d(1.0 - (region > 0.5).float().flatten(0, 2).unsqueeze(1), spatial)
    edited = edited.reshape(batch, frames, height // spatial, width // spatial)
    groups = (batch, (frames - 1) // temporal, temporal, *edited.shape[2:])
    following = edited[:, 1:].reshape(groups).amax(dim=2)
    return 1.0 - torch.cat((edited[:, :1], following), dim=1).unsqueeze(1)


def concat_condition(noisy: Tensor, condition: VideoCondition) -> Tensor:
    """Concat(V, I, M) along channels: [B, 2C+1, T, H, W] in V's dtype."""
    return torch.cat((noisy, condition.latents.to(noisy.dtype), condition.keep_mask.to(noisy.dtype)), dim=1)


def on_path(noisy: Tensor, noise: Tensor, condition: VideoCondition, t: float) -> Tensor:
    """V while sampling: kept cells lie on their exact straight path t*I + (1-t)*eps, the others stay as they are.

    Under an offset, I is here and below its difference from that.
    """
    clean = condition.differing(condition.latents.to(noisy.dtype))
    return torch.where(condition.keep_mask > 0.5, t * clean + (1.0 - t) * noise, noisy)


def path_velocity(velocity: Tensor, noise: Tensor, condition: VideoCondition) -> Tensor:
    """The velocity while sampling: kept cells move as I - eps, which ends on I; the others as the model says."""
    clean = condition.differing(condition.latents.to(velocity.dtype))
    return torch.where(condition.keep_mask > 0.5, clean - noise, velocity)


def restore_kept(latents: Tensor, condition: VideoCondition) -> Tensor:
    """After the last step: kept cells are I itself, free of the rounding of the steps."""
    return torch.where(condition.keep_mask > 0.5, condition.latents.to(latents.dtype), latents)


def _within(frames: int, shape: Shape) -> int:
    if not 0 <= frames <= shape[1]:
        raise ValueError(f"{frames} latent frames cannot be kept of a clip of {shape[1]}; keep 0 to {shape[1]}")
    return frames
