"""`sky4 bench stages`: the parts of a generation by themselves: text, one base step, one refiner step, decoding.

B = 1, C latent channels, T latent frames, h w latent grid, T_a audio tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sky4.bench import ours
from sky4.bench.cases import OURS, Built, Candidate, Case
from sky4.bench.record import NotRun
from sky4.diffusion.noise import noise
from sky4.geometry import ClipGeometry
from sky4.pipeline.components import Components
from sky4.pipeline.given import video_condition
from sky4.pipeline.request import ClipRequest
from sky4.pipeline.velocity import Conditions, model_velocity


def stage_cases(request: ClipRequest, components: Components) -> tuple[list[Case], list[NotRun]]:
    """A case for every stage that the model has, and the reasons for the others."""
    geometry = components.folder.geometry(request.width, request.height, request.frames, request.fps)
    name = components.folder.manifest.name
    size = f"{name}, {request.width}x{request.height}, {request.frames} frames"

    def case(stage: str, build: Callable[[], Callable[[], Any]]) -> Case:
        return Case(f"{stage} {size}", lambda: _built(build, components))

    cases = [
        case("text", lambda: _text(request, components)),
        case("base step", lambda: _base_step(request, geometry, components)),
        case("decode video", lambda: _decode_video(request, geometry, components)),
        case("decode audio", lambda: _decode_audio(request, geometry, components)),
    ]
    return cases, [NotRun(f"refiner step {size}", OURS, "this model has no refiner")]


def _built(build: Callable[[], Callable[[], Any]], components: Components) -> Built:
    with torch.inference_mode():
        call = build()

    def run() -> Any:
        with torch.inference_mode(), ours.use_backend(components.backend):
            return call()

    # counted on torch's own operations, which the counter knows
    with torch.inference_mode(), ours.use_backend("torch"), FlopCounterMode(display=False) as counter:
        call()
    return Built({OURS: Candidate(run, flop=counter.get_total_flops() or None, backend=components.backend)})


def _text(request: ClipRequest, components: Components) -> Callable[[], Any]:
    encoder = components.text_encoder
    return lambda: encoder.encode([request.prompt])


def _base_step(request: ClipRequest, geometry: ClipGeometry, components: Components) -> Callable[[], Any]:
    """One evaluation of both towers under the prompt alone; guidance makes two or more of them a step."""
    model, device = components.transformer, components.device
    shape = (model.config.video_channels, geometry.latent_frames, geometry.latent_height, geometry.latent_width)
    video = noise(shape, request.seed, "video", 0)[None].to(device)
    audio = noise((geometry.audio_tokens, model.config.audio_channels), request.seed, "audio", 0)[None].to(device)
    conditions = Conditions(
        texts={"positive": components.text_encoder.encode([request.prompt])},
        condition=video_condition(request, geometry, components.video_codec),
        video_noise=video,
        video_references=None,
        audio_references=None,
        rope_scale=geometry.audio_rope_scale_for(model.config.audio_clock),
        patch=geometry.patch,
    )
    evaluate = model_velocity(model, conditions)
    return lambda: evaluate((video, audio), (0.5, 0.5), ("positive",), exchange=True)


def _decode_video(request: ClipRequest, geometry: ClipGeometry, components: Components) -> Callable[[], Any]:
    codec = components.video_codec
    latents: Tensor = codec.black(geometry.frames, geometry.height, geometry.width)
    latents = latents + 0.1 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents)
    return lambda: [chunk.shape for chunk in codec.decode(latents)]


def _decode_audio(request: ClipRequest, geometry: ClipGeometry, components: Components) -> Callable[[], Any]:
    codec = components.audio_codec
    latents = torch.randn(1, geometry.audio_tokens, codec.channels, generator=torch.Generator().manual_seed(0))
    latents = latents.to(components.device)
    return lambda: codec.decode(latents, geometry.audio_samples)
