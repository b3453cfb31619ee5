"""Sample clips while training: fixed prompts and seeds, a few steps, a contact sheet and the clips themselves.

Legend: B prompts, C latent channels, T latent frames, H W latent grid, A audio tokens, F pixel frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sky4.conditioning.assemble import assemble_audio, assemble_video, audio_velocity, video_velocity
from sky4.conditioning.inpaint import unconditioned
from sky4.diffusion.guidance import Guidance, Prompt, guided
from sky4.diffusion.noise import batch_noise
from sky4.diffusion.sampler import State, Times, sample, schedule
from sky4.encoders.protocols import AudioCodec, VideoCodec
from sky4.geometry import ClipGeometry
from sky4.inputs import TextInput
from sky4.media import write_clip
from sky4.model.transformer import JointTransformer
from sky4.train.logging import TrainingLog
from sky4.train.settings import JointSettings
from sky4.train.tasks import TaskMix, window
from sky4.train.trainer import Encode, TrainingState, computes_in_bfloat16

SEED = 7
SHEET_FRAMES = 8
DEFAULT_PROMPTS = (
    "a red circle bounces on the ground, moving right <sfx>a low drum at each bounce</sfx>",
    "a small blue star moves up, pulsing quickly <sfx>a glass chime at each pulse</sfx>",
    "a large yellow square moves left, pulsing slowly <sfx>a wooden knock at each beat</sfx>",
    "a green ring bounces quickly on the spot <sfx>a metal ring at each bounce</sfx>",
)


@dataclass(frozen=True)
class Plan:
    """What is sampled, the same each time."""

    prompts: tuple[str, ...]
    geometry: ClipGeometry
    steps: int
    guidance: float
    audio: bool = True  # False: the video tower alone, as for stages without sound


@torch.no_grad()
def sample_latents(model: JointTransformer, encode: Encode, black: Tensor, plan: Plan) -> tuple[Tensor, Tensor | None]:
    """Latents (video [B, C, T, H, W], audio [B, A, C_a]) of the plan's prompts; Euler, guidance in one batch."""
    config, geometry, count = model.config, plan.geometry, len(plan.prompts)
    device = next(model.parameters()).device
    text = encode([*plan.prompts, *[""] * count])
    black = black[:, :, : geometry.latent_frames].to(device)
    scale = geometry.audio_rope_scale_for(config.audio_clock) if plan.audio else 1.0

    def evaluate(state: State, times: Times, prompts: tuple[Prompt, ...], *, exchange: bool) -> State:
        noisy, sound = state
        assert noisy is not None
        words = (
            text
            if len(prompts) == 2
            else TextInput(text.hidden[:count], None if text.mask is None else text.mask[:count])
        )
        t = [torch.full((len(noisy),), time, device=device) for time in times]
        video = assemble_video(noisy, unconditioned(black, len(noisy)), None, t[0], patch=config.patch)
        audio = None if sound is None else assemble_audio(sound, None, t[1], scale)
        seen, heard = model(video, audio, words, exchange=exchange)
        return video_velocity(seen, 0, noisy.shape, config.patch), None if heard is None else audio_velocity(heard, 0)

    start: State = (
        batch_noise(black.shape[1:], SEED, "video", range(count), device),
        batch_noise((geometry.audio_tokens, config.audio_channels), SEED, "audio", range(count), device)
        if plan.audio
        else None,
    )
    guidance = Guidance(plan.guidance, plan.guidance, batched=True)
    video, audio = sample(guided(evaluate, guidance), start, schedule(plan.steps))
    assert video is not None
    return video, audio


def write_samples(
    folder: Path, latents: tuple[Tensor, Tensor | None], codecs: tuple[VideoCodec, AudioCodec], plan: Plan
) -> Path:
    """Decode, write one clip a prompt and `sheet.png` (a row a prompt); returns the sheet."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = torch.cat(list(codecs[0].decode(latents[0])), dim=2)  # [B, 3, F, H, W]
    pixels = ((frames.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1).cpu().numpy()
    waves = None if latents[1] is None else codecs[1].decode(latents[1], plan.geometry.audio_samples).cpu().numpy()
    for row, clip in enumerate(pixels):
        if len(clip) > 1:
            recipe = {"prompt": plan.prompts[row], "seed": SEED, "steps": plan.steps, "guidance": plan.guidance}
            sound = None if waves is None else waves[row].astype(np.float32)
            rate = plan.geometry.sample_rate
            path = folder / f"{row}.mp4"
            write_clip(path, [clip], sound, fps=plan.geometry.fps, recipe=recipe, sample_rate=rate, force=True)
    sheet = contact_sheet(pixels)
    Image.fromarray(sheet).save(folder / "sheet.png")
    return folder / "sheet.png"


def show_samples(
    settings: JointSettings,
    clip: ClipGeometry,
    encode: Encode,
    black: Tensor,
    codecs: tuple[VideoCodec, AudioCodec],
) -> Callable[[TrainingState, TrainingLog], None]:
    """What `train` calls now and then: samples of the moving average, as long as the run's longest task."""
    run, mix = settings.run, TaskMix(settings.tasks, settings.batch, clip).tasks
    longest = max(task.frames for task in mix)
    plan = Plan(
        prompts=run.sample_prompts or DEFAULT_PROMPTS,
        geometry=window(clip, longest),
        steps=run.sample_steps,
        guidance=run.sample_guidance,
        audio=any(task.has_audio for task in mix),
    )

    def show(state: TrainingState, log: TrainingLog) -> None:
        device = next(state.model.parameters()).device
        bfloat16 = computes_in_bfloat16(run.autocast, device)
        with state.averaged(), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            latents = sample_latents(state.model, encode, black, plan)
        samples = state.position.sample
        sheet = write_samples(Path(run.folder) / "samples" / f"{samples:09d}", latents, codecs, plan)
        log.picture("samples", torch.from_numpy(np.asarray(Image.open(sheet)).copy()).permute(2, 0, 1), samples)
        log.say(f"samples: {sheet}")

    return show


def contact_sheet(clips: np.ndarray) -> np.ndarray:
    """One picture [rows, columns, 3] of clips uint8 [B, F, H, W, 3]: a row a clip, evenly spaced frames."""
    shown = np.unique(np.linspace(0, clips.shape[1] - 1, min(SHEET_FRAMES, clips.shape[1])).round().astype(int))
    return np.concatenate([np.concatenate(list(clip[shown]), axis=1) for clip in clips], axis=0)
