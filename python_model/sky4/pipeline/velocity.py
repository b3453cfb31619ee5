"""The velocity that a sampler integrates: the joint model under one request's conditions. No branch per task.

Legend: R rows = prompts x B, B = 1, C latent channels, T latent frames, h w latent grid, T_a audio tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn.functional import pad

from sky4.conditioning import (
    AudioReferences,
    ShotSwitch,
    VideoCondition,
    VideoReferences,
    assemble_audio,
    assemble_video,
    audio_velocity,
    keyframe_velocity,
    video_velocity,
)
from sky4.conditioning.inpaint import on_path, path_velocity
from sky4.conditioning.keyframes import KeyframePlan, packed, unpacked
from sky4.conditioning.voices import Voice, voiced
from sky4.diffusion.guidance import Evaluate, Prompt
from sky4.diffusion.sampler import Modality, State, Times
from sky4.inputs import TextInput, TowerInput
from sky4.model.transformer import JointTransformer


@dataclass(frozen=True)
class Conditions:
    """What stays the same over the steps.

    video_noise [1, C, T, h, w]: kept cells run from it straight to I. held: the modality that is given whole, at t = 1.
    start: where the window lies on the running time axis of a clip that is made in several, in latent frames. switch:
    where another shot begins in it.
    film [1, C, T, h, w]: of the references, the one that a guided model starts from.
    keyframes: what is made beside the sequence; the state then is both, packed (conditioning/keyframes.py).
    voices: sounds that drive regions of the picture alone, beside the one that is held.
    """

    texts: Mapping[Prompt, TextInput]
    condition: VideoCondition | None
    video_noise: Tensor | None
    video_references: VideoReferences | None
    audio_references: AudioReferences | None
    rope_scale: Fraction | None
    patch: int
    held: Modality | None = None
    start: float = 0.0
    switch: ShotSwitch | None = None
    film: Tensor | None = None
    keyframes: KeyframePlan | None = None
    voices: tuple[Voice, ...] = ()


def model_velocity(model: JointTransformer, given: Conditions) -> Evaluate:
    """The model as guidance calls it. A modality that is held gets no velocity."""

    def evaluate(state: State, times: Times, prompts: tuple[Prompt, ...], *, exchange: bool) -> State:
        video, audio = _video_input(state[0], times[0], given, len(prompts)), _audio_input(state[1], times[1], given)
        text = join_text([given.texts[prompt] for prompt in prompts])
        seen, heard = model(video, audio, text, exchange=exchange)
        return _seen(seen, video, state[0], given, len(prompts)), _heard(heard, audio, given)

    return voiced(evaluate, given.voices)


def _video_input(noisy: Tensor | None, t: float, given: Conditions, copies: int) -> TowerInput | None:
    if noisy is None:
        return None
    assert given.condition is not None and given.video_noise is not None
    condition, seen, keyframes = given.condition.repeat(copies), given.video_references, None
    if given.keyframes is not None:
        noisy, high = unpacked(noisy, condition.latents.shape, given.keyframes.noise.shape)
        keyframes = given.keyframes.at(high, t, copies)
    noisy = on_path(noisy, given.video_noise, condition, t)
    timestep = torch.full((len(noisy),), t, device=noisy.device)
    return assemble_video(
        noisy,
        condition,
        seen and seen.repeat(copies),
        timestep,
        patch=given.patch,
        start=given.start,
        keyframes=keyframes,
        switch=given.switch,
    )


def _audio_input(noisy: Tensor | None, t: float, given: Conditions) -> TowerInput | None:
    if noisy is None:
        return None
    assert given.rope_scale is not None
    heard = given.audio_references
    timestep = torch.full((len(noisy),), t, device=noisy.device)
    shown = heard and heard.repeat(len(noisy))
    return assemble_audio(noisy, shown, timestep, given.rope_scale, start=given.start, switch=given.switch)


def _seen(
    made: Tensor | None, tower: TowerInput | None, noisy: Tensor | None, given: Conditions, copies: int
) -> Tensor | None:
    if made is None or tower is None or noisy is None or given.held == "video":
        return None
    assert given.condition is not None and given.video_noise is not None
    condition = given.condition.repeat(copies)
    velocity = video_velocity(made, tower.reference_tokens, condition.latents.shape, given.patch).to(noisy.dtype)
    velocity = path_velocity(velocity, given.video_noise, condition)
    if given.keyframes is None:
        return velocity
    high = keyframe_velocity(made, given.keyframes.condition.latents.shape, given.patch).to(noisy.dtype)
    return packed(velocity, given.keyframes.velocity(high, copies))


def _heard(made: Tensor | None, tower: TowerInput | None, given: Conditions) -> Tensor | None:
    if made is None or tower is None or given.held == "audio":
        return None
    return audio_velocity(made, tower.reference_tokens).float()


def join_text(texts: list[TextInput]) -> TextInput:
    """Texts of one row each as one batch, padded to the longest; no mask where nothing is padded."""
    longest = max(text.hidden.shape[1] for text in texts)
    if all(text.mask is None and text.hidden.shape[1] == longest for text in texts):
        return TextInput(torch.cat([text.hidden for text in texts]), None)
    rows, masks = [], []
    for text in texts:
        mask = text.hidden.new_ones(text.hidden.shape[:2], dtype=torch.bool) if text.mask is None else text.mask
        rows.append(pad(text.hidden, (0, 0, 0, longest - text.hidden.shape[1])))
        masks.append(pad(mask, (0, longest - mask.shape[1])))
    mask = torch.cat(masks)
    return TextInput(torch.cat(rows), None if bool(mask.all()) else mask)
