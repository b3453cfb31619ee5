"""A window's latents refined: interpolated to the larger grid, with what is known there, and made anew by the refiner.

Legend: B = 1, C latent channels, T -> T2 latent frames, h w -> H W latent grid, K keyframes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sky4.conditioning.inpaint import VideoCondition, on_path, path_velocity, restore_kept
from sky4.conditioning.keyframes import KeyframePlan, keyframe_fill
from sky4.conditioning.refiner import (
    KeyframeLatents,
    assemble_refiner,
    enlarged,
    refiner_condition,
    refiner_velocity,
)
from sky4.conditioning.tiles import Cut, Tiling, blended, tiles
from sky4.diffusion.noise import noise
from sky4.diffusion.sampler import Moment, State, Times, sample, schedule
from sky4.geometry import ClipGeometry
from sky4.inputs import TextInput
from sky4.media import probe_video
from sky4.ops.cubes import video_tiling
from sky4.ops.vsa import cubes_kept
from sky4.pipeline.canvas import footage_of
from sky4.pipeline.components import Components
from sky4.pipeline.given import to_pixels, video_condition
from sky4.pipeline.model_folder import ModelFolder
from sky4.pipeline.refinement import Refinement
from sky4.pipeline.request import ClipRequest, Source
from sky4.pipeline.states import REFINING, ClipStates, NoStates
from sky4.pipeline.validate import refined_geometry
from sky4.pipeline.windows import Frames

Say = Callable[[str, int, int], None]


@dataclass(frozen=True)
class HighGrid:
    """What a window is refined to. source: the latents on that grid that are given, and where; None: none are."""

    refinement: Refinement
    geometry: ClipGeometry
    source: VideoCondition | None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.geometry.latent_frames, self.geometry.latent_height, self.geometry.latent_width

    def enlarged(self, model: ModelFolder) -> bool:
        """Whether the refiner starts from enlarged pixels."""
        return model.refiner(self.refinement.flag).enlarges

    def held(self, model: ModelFolder) -> bool:
        """Whether what is made of it is held to the clip before; not where more is known than that one shows."""
        return self.source is None and model.refiner(self.refinement.flag).held


def high_grid(request: ClipRequest, geometry: ClipGeometry, components: Components) -> HighGrid | None:
    """For the request of one window, of that geometry; None where nothing is refined.

    A source gives latents of its own only where it is no smaller and no slower than what is made: what is enlarged
    would say no more than the interpolated clip does.
    """
    refinement = request.refinement
    if refinement is None:
        return None
    high = refined_geometry(refinement, components.folder, geometry)
    frames = min(request.frames * refinement.rate, high.frames)
    sources = tuple(
        _moved(source, request, refinement.rate, frames)
        for source in request.sources
        if _is_high(source, request, refinement)
    )
    if not sources:
        return HighGrid(refinement, high, None)
    wide = replace(
        request,
        width=refinement.width,
        height=refinement.height,
        frames=frames,
        fps=high.fps,
        sources=sources,
        refinement=None,
    )
    return HighGrid(refinement, high, video_condition(wide, high, components.video_codec))


def _is_high(source: Source, request: ClipRequest, refinement: Refinement) -> bool:
    footage = footage_of(source, request.fps)
    if footage.width < refinement.width or footage.height < refinement.height:
        return False
    return refinement.rate == 1 or source.is_picture or probe_video(source.path).fps >= request.out_fps


def _moved(source: Source, request: ClipRequest, rate: int, frames: int) -> Source:
    """The source in a clip of `rate` times the frames."""
    if source.is_picture:
        return replace(source, start=source.start * rate if source.start >= 0 else source.start)
    start = request.start_of(source) * rate
    return replace(source, start=start, frames=min(source.frames * rate, frames - start), skip=source.skip * rate)


def keyframe_plan(
    high: HighGrid | None, low_black: Callable[[], Tensor], channels: int, seed: int, index: int
) -> KeyframePlan | None:
    """The keyframes that the base model makes beside window `index`; None where none are asked for."""
    if high is None or not high.refinement.keyframes:
        return None
    frames, grid = high.refinement.keyframes, high.shape[1:]
    fill = keyframe_fill(low_black(), len(frames), grid)
    condition = VideoCondition(fill, torch.zeros_like(fill[:, :1]))
    if high.source is not None:
        at = [frame * high.refinement.rate for frame in frames]
        keep = high.source.keep_mask[:, :, at]
        condition = VideoCondition(torch.where(keep > 0.5, high.source.latents[:, :, at], fill), keep)
    eps = noise((channels, len(frames), *grid), seed, "keyframes", index)[None].to(fill.device)
    return KeyframePlan(frames, condition, eps)


def refining_start(low: Tensor, given: Frames | None, high: HighGrid, components: Components) -> Tensor:
    """What the refiner interpolates to its grid: `low` [1, C, T, h, w] itself, or [1, C, T2, H, W], its clip's pixels
    enlarged and encoded on that grid, as the refiner was trained.

    given: the clip's own frames [F, h, w, 3], where they were not made: they need not be decoded.
    """
    if not high.enlarged(components.folder):
        return low
    codec, geometry = components.video_codec, high.geometry
    pixels = torch.cat(list(codec.decode(low)), dim=2) if given is None else to_pixels(given).to(low.device)
    return codec.encode(enlarged(pixels, geometry.frames, geometry.height, geometry.width))


def attention_work(high: HighGrid, density: float) -> float:
    """The share of a dense attention's work that the refiner's fine stage does, in one tile."""
    cubes = video_tiling(high.geometry.grid).cubes
    return cubes_kept(density, cubes) / cubes


def refined(
    low: Tensor,
    keyframes: KeyframeLatents | None,
    high: HighGrid,
    text: TextInput,
    components: Components,
    seed: int,
    index: int,
    say: Say,
    state: ClipStates | NoStates,
) -> Tensor:
    """Latents [1, C, T2, H, W] of window `index` from low, float32, which `refining_start` gives; gone on from where
    `state` stands.

    Every step takes the velocity of all tiles, blended, so that they part nowhere.
    """
    entry, model = components.folder.refiner(high.refinement.flag), components.refiner
    patch = model.config.patch
    eps = noise((low.shape[1], *high.shape), seed, "refinement", index)[None].to(low.device)
    start, condition = refiner_condition(low, eps, keyframes, high.source)
    cut = tiles(high.shape, Tiling(entry.tile, entry.overlap), patch)

    def velocity(latents: State, times: Times) -> State:
        assert latents[0] is not None
        noisy = on_path(latents[0], eps, condition, times[0])
        t = torch.full((1,), times[0], device=noisy.device)

        def of_tile(part: Cut) -> Tensor:
            mine, given = noisy[part], VideoCondition(condition.latents[part], condition.keep_mask[part])
            out = model(assemble_refiner(mine, given, t, density=entry.density, patch=patch), text)
            return refiner_velocity(out, mine, given, t, patch, entry.residual)

        return path_velocity(blended(noisy, cut, of_tile), eps, condition), None

    stage, steps = f"refining {index + 1}" if index else "refining", high.refinement.steps
    with state.sampling(f"window {index}", (start, None), steps, REFINING) as keeping:

        def passed(step: int, steps: int, moment: Moment) -> None:
            keeping.passed(moment)
            say(stage, step, steps)

        say(stage, keeping.resumed.step if keeping.resumed is not None else 0, steps)
        video, _ = sample(velocity, (start, None), schedule(steps), on_step=passed, resumed=keeping.resumed)
    assert video is not None
    return restore_kept(video, condition)
