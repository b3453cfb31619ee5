"""How far a refiner comes on held-out scenes of the world, each known at both sizes and rates.

PSNR of the decoded clip against the large render: of the latents plainly interpolated, of the small clip decoded and
then enlarged, refined with sparse and with dense attention, and of the large render through the codec, which no refiner
passes. Seams: how much the error changes across the cells' borders that are tiles' borders too, against the others.

Legend: C latent channels, T -> T2 latent frames, F pixel frames.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from sky4.conditioning.refiner import refiner_condition
from sky4.conditioning.tiles import Box, spans
from sky4.geometry import ClipGeometry
from sky4.inputs import TextInput
from sky4.pipeline.components import Components
from sky4.pipeline.model_folder import RefinerEntry
from sky4.pipeline.refine import HighGrid, attention_work, refined
from sky4.pipeline.refinement import Refinement
from sky4.pipeline.states import NoStates
from sky4.pipeline.windows import to_frames
from sky4.train.pairs import PairShape, pair_scene, render_pairs
from sky4.world.captions import caption

Say = Callable[[str, int, int], None]
SEED = 11  # of the held-out scenes
SHEET_FRAMES = 4  # of each clip on the sheet


@dataclass(frozen=True)
class RefinerCase:
    """PSNR in dB of one scene's clips, and of its tiles the change of the error across borders, in 0..255."""

    scene: int
    interpolated: float
    enlarged: float
    refined: float
    dense: float
    codec: float
    tiled: float
    border: float
    inside: float


@dataclass(frozen=True)
class RefinerEvaluation:
    """The cases, and what the sparse attention reads of the cubes."""

    cases: tuple[RefinerCase, ...]
    work: float
    seconds: float
    pictures: tuple[np.ndarray, ...]

    @property
    def table(self) -> list[tuple[str, float, str]]:
        """(measure, mean over the cases, unit)."""
        mean = {name: float(np.mean([getattr(case, name) for case in self.cases])) for name in _MEASURED}
        return [
            ("latents interpolated", mean["interpolated"], "dB"),
            ("decoded, then enlarged", mean["enlarged"], "dB"),
            ("refined", mean["refined"], "dB"),
            ("refined, dense attention", mean["dense"], "dB"),
            ("refined in small tiles", mean["tiled"], "dB"),
            ("the codec alone", mean["codec"], "dB"),
            ("gain over interpolated latents", mean["refined"] - mean["interpolated"], "dB"),
            ("sparse against dense", mean["refined"] - mean["dense"], "dB"),
            ("error across tile borders, to others", mean["border"] / max(mean["inside"], 1e-9), ""),
            ("attention work, to dense", self.work, "share"),
        ]

    def to_dict(self) -> dict[str, Any]:
        measures = [{"name": name, "value": value, "unit": unit} for name, value, unit in self.table]
        return {"measures": measures, "seconds": self.seconds, "cases": [asdict(case) for case in self.cases]}

    def sheet(self) -> Image.Image:
        """A line for each case: small and enlarged, interpolated, refined, the truth."""
        return Image.fromarray(np.concatenate(self.pictures))


_MEASURED = [name for name in RefinerCase.__dataclass_fields__ if name != "scene"]


def evaluate_refiner(components: Components, cases: int, steps: int | None, seed: int, say: Say) -> RefinerEvaluation:
    """Refine `cases` held-out scenes of the model's own size. RequestError where the model has no refiner."""
    folder = components.folder
    entry, defaults = folder.refiner("--suite refiner"), folder.defaults
    frames = min(defaults.frames, 4 * folder.temporal_compression + 1)
    shape = PairShape(size=defaults.width, frames=frames, fps=int(defaults.fps))
    side = shape.size * shape.scale
    high = HighGrid(
        Refinement(side, side, entry.steps if steps is None else steps, rate=2),
        folder.geometry(side, side, shape.high_frames, Fraction(shape.fps * shape.rate)),
        None,
    )
    began, made, pictures = time.monotonic(), [], []
    for index in range(cases):
        say("refining scenes", index, cases)
        with torch.inference_mode():
            case, picture = _case(index, shape, high, entry, components, seed)
        made.append(case)
        pictures.append(picture)
    say("refining scenes", cases, cases)
    work = attention_work(high, entry.density)
    return RefinerEvaluation(tuple(made), work, time.monotonic() - began, tuple(pictures))


def _case(
    index: int, shape: PairShape, high: HighGrid, entry: RefinerEntry, components: Components, seed: int
) -> tuple[RefinerCase, np.ndarray]:
    codec, device = components.video_codec, components.device
    small, large = render_pairs(SEED, range(index, index + 1), shape, 1, device, "heldout")
    low, truth = codec.encode(small), codec.encode(large)
    scene, _ = pair_scene(SEED, index, 1, "heldout")
    text = components.text_encoder.encode([caption(scene, "short", "en", np.random.default_rng(index), silent=True)])
    noise_like = torch.zeros_like(truth)
    interpolated = _decoded(refiner_condition(low, noise_like)[1].latents, components)
    size = tuple(large.shape[2:])
    enlarged = functional.interpolate(_decoded(low, components), size, mode="trilinear", align_corners=True)

    def run(**changes: Any) -> Tensor:
        return _decoded(_refined(low, high, text, components, replace(entry, **changes), seed + index), components)

    whole = tuple(high.shape)
    refined_clip = run(tile=whole)
    cells = high.geometry.latent_frames, high.geometry.latent_height, high.geometry.latent_width
    tile, overlap = _small_tiles(cells, entry.overlap, high.geometry.patch)
    tiled = run(tile=tile, overlap=overlap)
    border, inside = seam_energy(tiled - large, cells, tile, overlap, high.geometry)
    case = RefinerCase(
        scene=index,
        interpolated=psnr(interpolated, large),
        enlarged=psnr(enlarged, large),
        refined=psnr(refined_clip, large),
        dense=psnr(run(tile=whole, density=1.0), large),
        codec=psnr(_decoded(truth, components), large),
        tiled=psnr(tiled, large),
        border=border,
        inside=inside,
    )
    return case, _line(enlarged, interpolated, refined_clip, large)


def _refined(
    low: Tensor, high: HighGrid, text: TextInput, components: Components, entry: RefinerEntry, seed: int
) -> Tensor:
    kept = components.folder
    components.folder = replace(kept, manifest=replace(kept.manifest, refiner=entry))
    try:
        return refined(low, None, high, text, components, seed, 0, lambda *_: None, NoStates())
    finally:
        components.folder = kept


def _small_tiles(cells: Box, overlap: Box, patch: int) -> tuple[Box, Box]:
    """(tile, overlap) that cut every axis in two, with the overlap that the model has, or half of a short axis."""
    units = (1, patch, patch)
    shared = [min(most, length // 2) // unit * unit for most, length, unit in zip(overlap, cells, units, strict=True)]
    sizes = [-(-(length + both) // (2 * unit)) * unit for length, both, unit in zip(cells, shared, units, strict=True)]
    return (sizes[0], sizes[1], sizes[2]), (shared[0], shared[1], shared[2])


def seam_energy(
    error: Tensor,
    cells: Box,
    tile: Box,
    overlap: Box,
    geometry: ClipGeometry,
) -> tuple[float, float]:
    """Mean |step| of the error [1, 3, F, H, W] across the borders of cells: where tiles begin or end, and elsewhere.

    In steps of 0 to 255. Only cells' borders are compared, as a codec has steps of its own there.
    """
    steps: dict[bool, list[float]] = {True: [0.0, 0.0], False: [0.0, 0.0]}
    units = geometry.temporal_compression, geometry.spatial_compression, geometry.spatial_compression
    for axis, (length, most, shared, unit) in enumerate(zip(cells, tile, overlap, units, strict=True)):
        cut = spans(length, most, shared, 1 if axis == 0 else geometry.patch)
        edges = {span.begin for span in cut} | {span.end for span in cut}
        for border in range(1, length):
            pixel = (border - 1) * unit + 1 if axis == 0 else border * unit
            step = error.select(2 + axis, pixel) - error.select(2 + axis, pixel - 1)
            held = steps[border in edges]
            held[0] += float(step.abs().mean()) * 127.5
            held[1] += 1
    across, within = (total / max(count, 1) for total, count in (steps[True], steps[False]))
    return across, within


def psnr(made: Tensor, truth: Tensor) -> float:
    """In dB, of pixels in [-1, 1]."""
    return float(10 * torch.log10(4 / (made - truth).square().mean()))


def _decoded(latents: Tensor, components: Components) -> Tensor:
    return torch.cat(list(components.video_codec.decode(latents)), dim=2)


def _line(*clips: Tensor) -> np.ndarray:
    """[H, W, 3]: some frames of every clip, side by side."""
    picked = torch.linspace(0, clips[0].shape[2] - 1, SHEET_FRAMES).round().long()
    return np.concatenate([frame for clip in clips for frame in to_frames(clip[:, :, picked])], axis=1)
