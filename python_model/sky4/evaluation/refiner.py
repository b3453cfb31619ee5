"""How far a refiner comes on held-out scenes of the world, each known at both sizes and rates.

PSNR of the decoded clip against the large render: of the latents plainly interpolated, of the small clip decoded and
then enlarged, refined with sparse and with dense attention, and of the large render through the codec, which no refiner
passes that makes the clip anew. As `sky4 refine` has it, the small clip's own pixels are given: enlarged, and refined
and held to them (pipeline/grounding.py); and the same with two keyframes that the base model makes, against without
them, plainly and with as many more steps as the keyframes take work. True keyframes: refined with the large render's
latents given for two of the frames, told of all frames and of those that no keyframe holds. Seams: how much the error
changes across the cells' borders that are tiles' borders too, against the others.

Each case is kept in the folder as it comes, so that a measurement that was ended goes on there.

Legend: C latent channels, T -> T2 latent frames, F -> F2 pixel frames.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sky4.conditioning.refiner import KeyframeLatents, enlarged, refiner_condition
from sky4.conditioning.tiles import Box, spans
from sky4.evaluation.given_clip import given_clip
from sky4.evaluation.kept_cases import CaseFolder
from sky4.geometry import ClipGeometry
from sky4.inputs import TextInput
from sky4.pipeline.components import Components
from sky4.pipeline.generate import generate_clip
from sky4.pipeline.given import to_pixels
from sky4.pipeline.grounding import grounded
from sky4.pipeline.model_folder import RefinerEntry
from sky4.pipeline.refine import HighGrid, attention_work, refined, refining_start
from sky4.pipeline.refinement import Refinement
from sky4.pipeline.request import ClipRequest
from sky4.pipeline.states import NoStates
from sky4.pipeline.windows import Frames, to_frames
from sky4.train.pairs import PairShape, pair_scene, render_pairs
from sky4.world.captions import caption

Say = Callable[[str, int, int], None]
SEED = 11  # of the held-out scenes
SHEET_FRAMES = 4  # of each clip on the sheet
SHEET_CASES = 8  # on the sheet: more could not be looked at


@dataclass(frozen=True)
class RefinerCase:
    """PSNR in dB of one scene's clips, and of its tiles the change of the error across borders, in 0..255.

    start: of what the refiner starts from, decoded as it is. held: to the small clip as it is decoded. given_...: where
    the small clip's own pixels are given. given_keyed: with keyframes that the base model makes of them; given_longer:
    without, with as many steps as take the same work. keyed, between: with true keyframes given, on all frames and on
    those that none of them holds; plain_between: without them, on these. whole_border, whole_inside: at the same places
    of the clip that was refined in one tile, as what moves in the middle errs there with tiles and without.
    """

    scene: int
    interpolated: float
    enlarged: float
    start: float
    refined: float
    held: float
    dense: float
    codec: float
    tiled: float
    border: float
    inside: float
    whole_border: float
    whole_inside: float
    given_enlarged: float
    given_refined: float
    given_keyed: float
    given_longer: float
    keyed: float
    between: float
    plain_between: float


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
        keyed = [case.keyed - case.refined for case in self.cases]
        made = [case.given_keyed - case.given_refined for case in self.cases]
        return [
            ("latents interpolated", mean["interpolated"], "dB"),
            ("decoded, then enlarged", mean["enlarged"], "dB"),
            ("what the refiner starts from", mean["start"], "dB"),
            ("refined", mean["refined"], "dB"),
            ("refined, held to the decoded small clip", mean["held"], "dB"),
            ("refined, dense attention", mean["dense"], "dB"),
            ("refined in small tiles", mean["tiled"], "dB"),
            ("the codec alone", mean["codec"], "dB"),
            ("gain over interpolated latents", mean["refined"] - mean["interpolated"], "dB"),
            ("sparse against dense", mean["refined"] - mean["dense"], "dB"),
            ("gain over decoding and enlarging", mean["refined"] - mean["enlarged"], "dB"),
            ("own pixels given, enlarged", mean["given_enlarged"], "dB"),
            ("own pixels given, refined", mean["given_refined"], "dB"),
            ("    with two keyframes made of them", mean["given_keyed"], "dB"),
            ("    without, by the same work", mean["given_longer"], "dB"),
            ("gain of two made keyframes", float(np.mean(made)), "dB"),
            ("    its standard deviation", float(np.std(made)), "dB"),
            ("    by the same work", mean["given_keyed"] - mean["given_longer"], "dB"),
            ("gain of two true keyframes", float(np.mean(keyed)), "dB"),
            ("    its standard deviation", float(np.std(keyed)), "dB"),
            ("gain of two true keyframes between them", mean["between"] - mean["plain_between"], "dB"),
            ("error across tile borders, to others", mean["border"] / max(mean["inside"], 1e-9), ""),
            ("    in one tile, at the same places", mean["whole_border"] / max(mean["whole_inside"], 1e-9), ""),
            ("attention work, to dense", self.work, "share"),
        ]

    def to_dict(self) -> dict[str, Any]:
        measures = [{"name": name, "value": value, "unit": unit} for name, value, unit in self.table]
        return {"measures": measures, "seconds": self.seconds, "cases": [asdict(case) for case in self.cases]}

    def sheet(self) -> Image.Image:
        """A line for each of the first cases: small and enlarged, interpolated, refined, the truth."""
        return Image.fromarray(np.concatenate(self.pictures[:SHEET_CASES]))


_MEASURED = [name for name in RefinerCase.__dataclass_fields__ if name != "scene"]


def evaluate_refiner(
    components: Components, cases: int, request: ClipRequest, steps: int | None, folder: Path, say: Say
) -> RefinerEvaluation:
    """Refine `cases` held-out scenes of the request's size and length to twice the pixels a side and frames a second.

    RequestError where the model has no refiner.

    folder: cases that lie in it, of the same weights and request, are not measured again.
    """
    model = components.folder
    entry = model.refiner("--suite refiner")
    shape = PairShape(size=request.width, frames=request.frames, fps=int(request.fps))
    side = shape.size * shape.scale
    high = HighGrid(
        Refinement(side, side, entry.steps if steps is None else steps, rate=2),
        model.geometry(side, side, shape.high_frames, Fraction(shape.fps * shape.rate)),
        None,
    )
    began, made, pictures = time.monotonic(), [], []
    kept = CaseFolder(folder, {"weights": components.digest, "request": request.to_dict(), "steps": steps})
    for index in range(cases):
        say("refining scenes", index, cases)
        there = kept.read(index)
        if there is None:
            with torch.inference_mode():
                case, picture = _case(
                    index, shape, high, entry, components, replace(request, seed=request.seed + index)
                )
            kept.write(index, asdict(case), picture)
        else:
            case, picture = RefinerCase(**there[0]), there[1]
        made.append(case)
        pictures.append(picture)
    say("refining scenes", cases, cases)
    work = attention_work(high, entry.density)
    return RefinerEvaluation(tuple(made), work, time.monotonic() - began, tuple(pictures))


def _case(
    index: int, shape: PairShape, high: HighGrid, entry: RefinerEntry, components: Components, request: ClipRequest
) -> tuple[RefinerCase, np.ndarray]:
    codec, device = components.video_codec, components.device
    small, large = render_pairs(SEED, range(index, index + 1), shape, 1, device, "heldout")
    low, truth = codec.encode(small), codec.encode(large)
    scene, _ = pair_scene(SEED, index, 1, "heldout")
    prompt = caption(scene, "short", "en", np.random.default_rng(index), silent=True)
    text = components.text_encoder.encode([prompt])
    interpolated = _decoded(refiner_condition(low, torch.zeros_like(truth))[1].latents, components)
    size = large.shape[2], large.shape[3], large.shape[4]
    decoded = _decoded(low, components)
    simply = enlarged(decoded, *size)
    start = refining_start(low, None, high, components)

    def run(start: Tensor, keyframes: KeyframeLatents | None = None, **changes: Any) -> Tensor:
        used = replace(entry, **changes)
        return _decoded(_refined(start, keyframes, high, text, components, used, request.seed), components)

    whole = tuple(high.shape)
    refined_clip = run(start, tile=whole)
    tile, overlap = _small_tiles(high.shape, entry.overlap, high.geometry.patch)
    tiled = run(start, tile=tile, overlap=overlap)
    border, inside = seam_energy(tiled - large, high.shape, tile, overlap, high.geometry)
    at_same = seam_energy(refined_clip - large, high.shape, tile, overlap, high.geometry)
    asked = replace(request, prompt=prompt, outputs="video")
    made_of = replace(high.refinement, keyframes=(0, low.shape[2] // 2))
    more = worth_of_keyframes(asked, made_of, high, components)
    longer = replace(high.refinement, steps=high.refinement.steps + more)
    frames = tuple(shape.rate * frame for frame in made_of.keyframes)
    keyed = run(start, KeyframeLatents(truth[:, :, list(frames)], frames), tile=whole)
    others = _frames_between(size[0], frames, high.geometry.temporal_compression)
    given = to_frames(small)
    held = run(refining_start(low, given, high, components), tile=whole)
    case = RefinerCase(
        scene=index,
        interpolated=psnr(interpolated, large),
        enlarged=psnr(simply, large),
        start=psnr(_decoded(refiner_condition(start, torch.zeros_like(truth))[1].latents, components), large),
        refined=psnr(refined_clip, large),
        held=psnr(_grounded(refined_clip, to_frames(decoded), shape.rate), large),
        dense=psnr(run(start, tile=whole, density=1.0), large),
        codec=psnr(_decoded(truth, components), large),
        tiled=psnr(tiled, large),
        border=border,
        inside=inside,
        whole_border=at_same[0],
        whole_inside=at_same[1],
        given_enlarged=psnr(enlarged(to_pixels(given), *size), large),
        given_refined=psnr(_grounded(held, given, shape.rate), large),
        given_keyed=psnr(_as_users(given, replace(asked, refinement=made_of), components, size[0]), large),
        given_longer=psnr(_as_users(given, replace(asked, refinement=longer), components, size[0]), large),
        keyed=psnr(keyed, large),
        between=psnr(keyed[:, :, others], large[:, :, others]),
        plain_between=psnr(refined_clip[:, :, others], large[:, :, others]),
    )
    return case, _line(simply, interpolated, refined_clip, large)


def worth_of_keyframes(request: ClipRequest, keyed: Refinement, high: HighGrid, components: Components) -> int:
    """How many steps of the refiner take the work in which the base model makes the keyframes, roughly: tokens times
    parameters."""
    small = components.folder.geometry(request.width, request.height, request.frames, request.fps)
    tokens = small.video_tokens + len(keyed.keyframes) * high.geometry.video_tokens // high.geometry.latent_frames
    passes = request.steps * (1 if request.guidance == 1 else 2)
    base, refiner = (
        sum(weight.numel() for weight in tower.parameters())
        for tower in (components.transformer.video, components.refiner)
    )
    return round(tokens * base * passes / (high.geometry.video_tokens * refiner))


def _as_users(given: Frames, request: ClipRequest, components: Components, frames: int) -> Tensor:
    """Pixels [1, 3, F2, H, W] of what `sky4 refine` makes of the given frames [F, h, w, 3]."""
    with given_clip(given, request, components) as whole:
        clip = generate_clip(replace(request, sources=(whole,)), components)
        return to_pixels(np.concatenate(list(clip.frames()))[:frames])


def _grounded(made: Tensor, given: Frames, rate: int) -> Tensor:
    """Pixels [1, 3, F2, H, W] held to the given frames [F, h, w, 3]."""
    return to_pixels(np.concatenate(list(grounded(iter([to_frames(made)]), iter(given), rate)))).to(made.device)


def _frames_between(frames: int, keyframes: Sequence[int], group: int) -> list[int]:
    """The pixel frames that are not in the groups of these latent frames."""
    return [frame for frame in range(frames) if (frame + group - 1) // group not in keyframes]


def _refined(
    start: Tensor,
    keyframes: KeyframeLatents | None,
    high: HighGrid,
    text: TextInput,
    components: Components,
    entry: RefinerEntry,
    seed: int,
) -> Tensor:
    kept = components.folder
    components.folder = replace(kept, manifest=replace(kept.manifest, refiner=entry))
    try:
        return refined(start, keyframes, high, text, components, seed, 0, lambda *_: None, NoStates())
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
