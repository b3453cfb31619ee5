"""The flow-matching loss of one batch: mean squared error of the velocity, per modality, over generated elements.

Kept cells, references and given modalities are not in the loss; each modality's loss is a mean over its own elements.

Legend: B batch, C latent channels, T latent frames, H W latent grid, A audio tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sky4.conditioning.assemble import (
    assemble_audio,
    assemble_video,
    audio_velocity,
    keyframe_velocity,
    video_velocity,
)
from sky4.conditioning.inpaint import VideoCondition, condition_on, guided_by
from sky4.conditioning.references import AudioReferences, VideoReferences
from sky4.config import TransformerConfig
from sky4.diffusion.flow import noised, velocity_target
from sky4.inputs import TextInput, TowerInput
from sky4.train.batches import LatentBatch

UNCHANGED = 0.1  # root mean square, in the latents' deviations, below which a difference is next to nothing
TINY = 1e-6
TEXT_MULTIPLE = 16  # a compiled model sees few text lengths instead of every one


@dataclass(frozen=True)
class FlowLoss:
    """total is what is differentiated; per sample and detached beside it, for the log: video, audio [B] or None."""

    total: Tensor
    video: Tensor | None
    audio: Tensor | None


def flow_loss(
    model: nn.Module,
    config: TransformerConfig,
    batch: LatentBatch,
    text: TextInput,
    black: Tensor,
    *,
    video_weight: float = 1.0,
    audio_weight: float = 1.0,
    unchanged_weight: float = 1.0,
) -> FlowLoss:
    """The loss of a batch on the model's device; black [1, C, >= T, H, W] is the latent of a black clip.

    unchanged_weight: how much a cell counts where a guided model's difference is next to nothing.
    """
    task = batch.task
    condition = condition_of(config, batch, black)
    video, audio = video_input(config, batch, condition, black), audio_input(config, batch)
    video_out, audio_out = model(video, audio, text)
    total = text.hidden.new_zeros((), dtype=torch.float32)
    seen = heard = None
    if task.trains_video:
        assert video is not None and batch.video is not None and batch.video_noise is not None and condition is not None
        made = video_velocity(video_out, video.reference_tokens, batch.video.shape, config.patch)
        data = condition.differing(batch.video)
        weights = None if unchanged_weight == 1 else torch.where(unchanged(data), unchanged_weight, 1.0)
        if not task.whole:
            mean, seen = mean_square(made, velocity_target(data, batch.video_noise), batch.keep_mask, weights)
            total = total + video_weight * mean
        if batch.high is not None and batch.keep_mask is not None:
            wanted = velocity_target(batch.high.latents, batch.high.noise)
            made = keyframe_velocity(video_out, batch.high.latents.shape, config.patch)
            mean, of_keyframes = mean_square(made, wanted, batch.high.keep_mask(batch.keep_mask))
            total = total + video_weight * mean
            seen = of_keyframes if seen is None else seen
    if task.trains_audio:
        assert audio is not None and batch.audio is not None and batch.audio_noise is not None
        made = audio_velocity(audio_out, audio.reference_tokens)
        mean, heard = mean_square(made, velocity_target(batch.audio, batch.audio_noise), None)
        total = total + audio_weight * mean
    return FlowLoss(total, seen, heard)


def condition_of(config: TransformerConfig, batch: LatentBatch, black: Tensor) -> VideoCondition | None:
    """I, M and, for a guided model, what the latents are made as a difference from."""
    if batch.video is None:
        return None
    assert batch.keep_mask is not None
    fill = black[:, :, : batch.video.shape[2]]
    if config.guide:
        return guided_by(batch.video, batch.keep_mask, fill, batch.guide, batch.switch, batch.guess)
    return condition_on(batch.video, batch.keep_mask, fill)


def video_input(
    config: TransformerConfig, batch: LatentBatch, condition: VideoCondition | None, black: Tensor
) -> TowerInput | None:
    """Concat(V, I, M) as tokens. Kept cells of V lie on the straight path too, as they do while sampling."""
    if batch.video is None:
        return None
    assert batch.video_noise is not None and batch.keep_mask is not None and condition is not None
    noisy = noised(condition.differing(batch.video), batch.video_noise, batch.video_time)
    high = None if batch.high is None else batch.high.given(batch.video_time, batch.keep_mask, black)
    return assemble_video(
        noisy,
        condition,
        batch.video_references,
        batch.video_time,
        patch=config.patch,
        keyframes=high,
        switch=batch.switch,
    )


def audio_input(config: TransformerConfig, batch: LatentBatch) -> TowerInput | None:
    if batch.audio is None:
        return None
    assert batch.audio_noise is not None
    noisy = noised(batch.audio, batch.audio_noise, batch.audio_time)
    scale = batch.geometry.audio_rope_scale_for(config.audio_clock)
    return assemble_audio(noisy, batch.audio_references, batch.audio_time, scale, switch=batch.switch)


def unchanged(difference: Tensor) -> Tensor:
    """Cells [B, 1, T, H, W] of a difference [B, C, T, H, W] that hold next to nothing."""
    return difference.square().mean(1, keepdim=True).sqrt() < UNCHANGED


def mean_square(
    made: Tensor, target: Tensor, keep_mask: Tensor | None, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(mean over all generated elements, mean of each sample [B] detached), float32.

    keep_mask [B, 1, ...] broadcasts over the channels; 1 = kept, not in the loss. weights [B, 1, ...]: of each cell in
    the means.
    """
    square = (made.float() - target).square()
    kept = keep_mask if keep_mask is not None and bool(keep_mask.any()) else None
    if kept is None and weights is None:
        return square.mean(), square.detach().flatten(1).mean(1)
    counted = torch.ones_like(square[:, :1]) if weights is None else weights.float()
    if kept is not None:
        counted = counted * (1.0 - kept)
    square = square * counted
    counts = counted.flatten(1).sum(1) * (square[0].numel() / counted[0].numel())  # [B] elements in the loss
    sums = square.flatten(1).sum(1)
    return sums.sum() / counts.sum(), sums.detach() / counts.clamp(min=TINY)


def to_device(batch: LatentBatch, device: torch.device) -> LatentBatch:
    """The batch on `device`; from pinned memory the copy overlaps with what runs."""
    if device.type == "cpu":
        return batch

    def move(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.pin_memory().to(device, non_blocking=True)

    seen, heard = batch.video_references, batch.audio_references
    return replace(
        batch,
        video=move(batch.video),
        video_noise=move(batch.video_noise),
        video_time=batch.video_time.to(device),
        keep_mask=move(batch.keep_mask),
        guide=move(batch.guide),
        video_references=None if seen is None else VideoReferences(seen.latents.to(device)),
        audio=move(batch.audio),
        audio_noise=move(batch.audio_noise),
        audio_time=batch.audio_time.to(device),
        audio_references=None if heard is None else AudioReferences(heard.latents.to(device)),
        high=None if batch.high is None else batch.high.to(device),
        guess=None if batch.guess is None else batch.guess.to(device),
    )


def pad_text(text: TextInput, multiple: int = TEXT_MULTIPLE) -> TextInput:
    """The text padded to a multiple of tokens with a mask, so that a compiled model meets few shapes."""
    batch, count, _ = text.hidden.shape
    missing = -count % multiple
    mask = text.mask if text.mask is not None else text.hidden.new_ones(batch, count, dtype=torch.bool)
    if missing == 0:
        return TextInput(text.hidden, mask)
    hidden = nn.functional.pad(text.hidden, (0, 0, 0, missing))
    return TextInput(hidden, nn.functional.pad(mask, (0, missing)))
