"""The stages of sampling: the base model's steps, and the refiner's.

B = 1   C latent channels   T latent frames   h w latent grid   T_a audio tokens
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch

from sky4.conditioning import AudioReferences, VideoReferences
from sky4.conditioning.inpaint import VideoCondition, unconditioned
from sky4.conditioning.keyframes import KeyframePlan, packed
from sky4.conditioning.refiner import assemble_refiner, refiner_velocity
from sky4.conditioning.tiles import Tiling, tiles
from sky4.conditioning.voices import Voice
from sky4.diffusion.guidance import Guidance, guided
from sky4.diffusion.sampler import State, evaluations
from sky4.geometry import ClipGeometry
from sky4.inputs import TextInput
from sky4.ops.cubes import on_device, video_tiling
from sky4.pipeline.velocity import Conditions, model_velocity
from sky4.planning.conditions import ReferenceSizes
from sky4.planning.sketch import ModelSketch
from sky4.planning.trace import traced
from sky4.planning.work import Stage, Work


def base_stage(work: Work, references: ReferenceSizes) -> Stage:
    """One evaluation of the velocity, guidance included."""
    request, geometry, text_tokens = work.request, work.geometry, work.text_tokens
    model, device = work.networks.transformer, work.device
    config, patch = model.config, geometry.patch
    grid = geometry.latent_frames, geometry.latent_height, geometry.latent_width
    video = torch.empty(1, config.video_channels, *grid, device=device) if request.runs_video else None
    audio = torch.empty(1, geometry.audio_tokens, config.audio_channels, device=device) if request.runs_audio else None
    text = TextInput(torch.empty(1, text_tokens, config.text_channels, device=device), None)
    seen = heard = None
    rows = columns = frames = 0
    if references.video:
        frames = sum(size[0] for size in references.video)
        cell = geometry.spatial_compression
        rows, columns = (max(size[side] for size in references.video) // cell for side in (1, 2))
        seen = VideoReferences(torch.empty(1, config.video_channels, frames, rows, columns, device=device))
    if references.audio_tokens:
        heard = AudioReferences(torch.empty(1, references.audio_tokens, config.audio_channels, device=device))
    held = "video" if request.video is not None else "audio" if request.driven else None
    keyframes = _keyframes(work, config.video_channels)
    state = video
    if keyframes is not None and video is not None:
        state = packed(video, keyframes.noise)
    given = Conditions(
        texts={"positive": text, "negative": text},
        condition=None if video is None else unconditioned(torch.empty_like(video)),
        video_noise=video,
        video_references=seen,
        audio_references=heard,
        rope_scale=geometry.audio_rope_scale_for(config.audio_clock) if audio is not None else None,
        patch=patch,
        held=held,  # type: ignore[arg-type]
        keyframes=keyframes,
        voices=_voices(work, video, audio),
    )
    guidance = Guidance(request.guidance, request.audio_guidance, batched=not work.setting.economy.apart)
    velocity = guided(model_velocity(model, given), guidance)

    def step() -> State:
        moved = velocity((state, audio), (1.0 if held == "video" else 0.5, 1.0 if held == "audio" else 0.5))
        return tuple(  # type: ignore[return-value]
            None if z is None or v is None else z + 0.1 * v.to(z.dtype)
            for z, v in zip((state, audio), moved, strict=True)
        )

    tokens = {"text": text_tokens}
    shapes: dict[str, tuple[int, ...]] = {}
    held_bytes = 0
    if video is not None:
        tokens |= {"video": geometry.video_tokens}
        shapes["video latents"] = tuple(video.shape)
        held_bytes += 4 * video.numel() * 4  # noise, state, condition, mask and what a sampler remembers
    if keyframes is not None:
        tokens |= {"keyframes": keyframes.noise[0, 0].numel() // patch**2}
        shapes["keyframe latents"] = tuple(keyframes.noise.shape)
        held_bytes += 4 * keyframes.noise.numel() * 4
    if seen is not None:
        tokens |= {"video references": frames * (rows // patch) * (columns // patch)}
    if audio is not None:
        tokens |= {"audio": geometry.audio_tokens}
        shapes["audio latents"] = tuple(audio.shape)
    if heard is not None:
        tokens |= {"audio references": references.audio_tokens}
    calls = evaluations(request.sampler, request.steps) * work.windows * request.variations
    return Stage("base", ("transformer",), calls, traced(step, work.setting.device), held_bytes, tokens, shapes)


def _voices(work: Work, video: torch.Tensor | None, audio: torch.Tensor | None) -> tuple[Voice, ...]:
    if video is None or audio is None:
        return ()
    return tuple(Voice(torch.empty_like(audio), torch.empty_like(video[:, :1, :1])) for _ in work.request.speakers)


def _keyframes(work: Work, channels: int) -> KeyframePlan | None:
    high, refinement = work.high, work.request.refinement
    if high is None or refinement is None or not refinement.keyframes:
        return None
    frames = refinement.keyframes
    noise = torch.empty(1, channels, len(frames), high.latent_height, high.latent_width, device=work.device)
    return KeyframePlan(frames, VideoCondition(noise, torch.empty_like(noise[:, :1])), noise)


@dataclass(frozen=True)
class RefinerTiles:
    """How many tiles a step takes, all of one size (T, h, w) in latent cells."""

    count: int
    size: tuple[int, int, int]


def refiner_tiles(high: ClipGeometry, sketch: ModelSketch) -> RefinerTiles:
    """As the refiner cuts them; also makes the order of a tile's cubes, which wants values."""
    entry = sketch.folder.refiner()
    cut = tiles(
        (high.latent_frames, high.latent_height, high.latent_width), Tiling(entry.tile, entry.overlap), high.patch
    )
    frames, rows, columns = (span.end - span.begin for span in cut[0])
    on_device(video_tiling((frames, rows // high.patch, columns // high.patch)), torch.device("cpu"))
    return RefinerTiles(len(cut), (frames, rows, columns))


def refiner_stage(work: Work, cut: RefinerTiles) -> Stage:
    """One tile of one step; under the prompt alone."""
    request, high, text_tokens = work.request, work.high, work.text_tokens
    assert request.refinement is not None and high is not None
    entry, model, device, patch = work.sketch.folder.refiner(), work.networks.refiner, work.device, high.patch
    noisy = torch.empty(1, model.config.video_channels, *cut.size, device=device)
    condition = VideoCondition(noisy, torch.empty_like(noisy[:, :1]))
    text = TextInput(torch.empty(1, text_tokens, model.config.text_channels, device=device), None)
    time = torch.empty(1, device=device)

    def tile() -> torch.Tensor:
        made = model(assemble_refiner(noisy, condition, time, density=entry.density, patch=patch), text)
        return refiner_velocity(made, noisy, condition, time, patch)

    shape = (model.config.video_channels, high.latent_frames, high.latent_height, high.latent_width)
    # the state, noise, I, the clip before, the sum over the tiles and a step's own: float32
    held = 7 * prod(shape) * 4
    calls = cut.count * request.refinement.steps * work.windows * request.variations
    tokens = {"text": text_tokens, "video": cut.size[0] * (cut.size[1] // patch) * (cut.size[2] // patch)}
    shapes: dict[str, tuple[int, ...]] = {"latents": (1, *shape), "tile": cut.size}
    return Stage("refiner", ("refiner",), calls, traced(tile, work.setting.device), held, tokens, shapes)
