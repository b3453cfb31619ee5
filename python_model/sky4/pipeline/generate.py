"""From a request to a clip: the one centre of every task.

text -> keep mask, condition latents, references -> sampling -> latents, from which frames and sound are decoded.

Legend: B = 1, C latent channels, T latent frames, h w latent grid, T_a audio tokens, F frames, S samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sky4.conditioning.inpaint import restore_kept
from sky4.diffusion.guidance import Guidance, guided
from sky4.diffusion.noise import noise
from sky4.diffusion.sampler import Modality, State, sample, schedule
from sky4.encoders.protocols import Reference, TextEncoder
from sky4.errors import Sky4Failure
from sky4.geometry import ClipGeometry
from sky4.inputs import TextInput
from sky4.ops.backend import use_backend
from sky4.pipeline.clip import Clip, Progress
from sky4.pipeline.components import Components
from sky4.pipeline.given import given_audio, given_video, references, shown_references, video_condition
from sky4.pipeline.request import ClipRequest
from sky4.pipeline.validate import validate
from sky4.pipeline.velocity import Conditions, model_velocity
from sky4.prompting import in_prompt_order, parse


def generate_clip(request: ClipRequest, components: Components, progress: Progress | None = None) -> Clip:
    """Make one clip's latents; frames and sound are decoded when the clip is asked for them.

    RequestError for what cannot be made, Sky4Failure for weights that do not fit and latents that are not finite.
    """
    return next(generate_clips(replace(request, variations=1), components, progress))


def generate_clips(request: ClipRequest, components: Components, progress: Progress | None = None) -> Iterator[Clip]:
    """The request's variations, one after the other, with the seeds seed, seed + 1, ...

    One at a time: kernels round differently for other batch sizes, and the same seed must make the same bits alone.
    """
    say = progress or _silent
    geometry = validate(request, components.folder)
    with _computing(components, request):
        start = _start(request, geometry, components, say)
    for index in range(request.variations):
        one = request.variation(index)
        with _computing(components, request):
            latents = _sampled(one, geometry, start, components, say)
        yield Clip(one, geometry, components, latents)


@dataclass(frozen=True)
class _Start:
    """What all variations share: the conditions, and the latents of the modality that is given whole."""

    conditions: Conditions
    video: Tensor | None
    audio: Tensor | None


def _start(request: ClipRequest, geometry: ClipGeometry, components: Components, say: Progress) -> _Start:
    say("reading the prompt", 0, 1)
    files = in_prompt_order(request.references, parse(request.prompt, [file.name for file in request.references])[0])
    texts = _texts(request, geometry, components)
    say("reading the prompt", 1, 1)
    say("conditions", 0, 1)
    video_codec = components.video_codec if request.runs_video else None
    audio_codec = components.audio_codec if request.runs_audio else None
    seen, heard = references(files, request, geometry, video_codec, audio_codec)
    scale = geometry.audio_rope_scale_for(components.transformer.config.audio_clock) if audio_codec else None
    conditions = Conditions(
        texts={"positive": texts[0], "negative": texts[1]},
        condition=None if video_codec is None else video_condition(request, geometry, video_codec),
        video_noise=None,
        video_references=seen,
        audio_references=heard,
        rope_scale=scale,
        patch=geometry.patch,
    )
    video = given_video(request.video, request, geometry, video_codec) if request.video and video_codec else None
    audio = given_audio(request.audio, geometry, audio_codec) if request.audio and audio_codec else None
    say("conditions", 1, 1)
    return _Start(conditions, video, audio)


def _texts(request: ClipRequest, geometry: ClipGeometry, components: Components) -> tuple[TextInput, TextInput]:
    """Hidden states under the prompt and under the negative prompt, one row each."""
    encoder: TextEncoder = components.text_encoder
    shown: list[Reference] = []
    if components.folder.manifest.text_encoder.sees_references:
        shown = shown_references(request.references, request, geometry)
    return encoder.encode([request.prompt], shown), encoder.encode([request.negative_prompt])


def _sampled(
    request: ClipRequest, geometry: ClipGeometry, start: _Start, components: Components, say: Progress
) -> State:
    """(video latents [1, C, T, h, w], audio latents [1, T_a, C]), float32; None where a tower does not run."""
    model, device = components.transformer, components.device
    video_noise = audio_noise = None
    if request.runs_video:
        shape = (model.config.video_channels, geometry.latent_frames, geometry.latent_height, geometry.latent_width)
        video_noise = noise(shape, request.seed, "video", 0)[None].to(device)
    if request.runs_audio:
        audio_noise = noise((geometry.audio_tokens, model.config.audio_channels), request.seed, "audio", 0)[None].to(
            device
        )
    guidance = Guidance(request.guidance, request.audio_guidance, batched=True)
    held: Modality | None = "video" if start.video is not None else "audio" if start.audio is not None else None
    conditions = replace(start.conditions, video_noise=video_noise, held=held)
    say("sampling", 0, request.steps)
    video, audio = sample(
        guided(model_velocity(model, conditions), guidance),
        (video_noise if start.video is None else start.video, audio_noise if start.audio is None else start.audio),
        schedule(request.steps, request.shift, hold=held),
        request.sampler,
        on_step=lambda step, steps, _: say("sampling", step, steps),
    )
    if video is not None and conditions.condition is not None:
        video = restore_kept(video, conditions.condition)
    return video, audio


@contextmanager
def _computing(components: Components, request: ClipRequest) -> Iterator[None]:
    """Without gradients, on the chosen attention, with convolutions that give the same bits each time.

    Out of memory becomes a sentence that names the flags to change.
    """
    try:
        tf32 = torch.backends.cudnn.allow_tf32
        with (
            torch.inference_mode(),
            use_backend(components.backend),
            torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=tf32),
        ):
            yield
    except torch.OutOfMemoryError as error:
        raise Sky4Failure(
            f"{components.device} ran out of memory at --size {request.width}x{request.height} and {request.frames} "
            "frames; lower either, or use --device cpu"
        ) from error


def _silent(stage: str, done: int, total: int) -> None:
    pass
