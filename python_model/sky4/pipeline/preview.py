"""Pictures of a clip while it is sampled, without its codec: latents to colours by a linear projection.

A cell's colours come from the cell and the eight around it. The projection is fitted once per model, by least squares
on what its codec makes of rendered scenes, and cached. With the bundled model its pictures of scenes that it was not
fitted on correlate with the codec's own, made as small, to 0.92 (0.83 from the cell alone).

Legend: C latent channels, T latent frames, h w latent grid, d pixels of a preview per side of a latent cell,
r pixel frames of a latent frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate, pad, unfold

from sky4.diffusion.flow import data_estimate
from sky4.diffusion.sampler import Moment, Schedule
from sky4.encoders.protocols import VideoCodec
from sky4.pipeline.components import Components
from sky4.pipeline.preview_file import preview_path, write_preview
from sky4.pipeline.replacing import cache_folder
from sky4.pipeline.request import ClipRequest
from sky4.pipeline.segments import Window
from sky4.pipeline.state_files import read_tensors, write_tensors
from sky4.world.render import render_video
from sky4.world.scene import sample_scene

SCENES = 64  # rendered for the fit: some thousand latent cells for some hundred weights
FORM = 2  # of what is cached; raised when the projection changes
GROUPS = 4  # latent frames of a scene, behind the first
RIDGE = 1e-3  # of the mean square of a column: some channels of a codec may be silent
COLUMNS, ROWS, CELL = 8, 4, 128  # of a sheet; pixels of a frame's longer side


@dataclass(frozen=True)
class Projection:
    """weight: [2, 9 * C + 1, 3 * d * d], of the first latent frame, which a causal codec codes apart, and of all
    others; the last row is an offset. detail: d."""

    weight: Tensor
    detail: int

    @classmethod
    def fit(cls, codec: VideoCodec) -> Projection:
        """By least squares: encoded scenes to their pictures, which are averaged over a cell's pixels and frames."""
        cell = codec.spatial_compression
        detail = max(d for d in range(1, cell + 1) if cell % d == 0 and (3 * d * d <= codec.channels or d == 1))
        size, frames = math.ceil(64 / cell) * cell, GROUPS * codec.temporal_compression + 1
        known: list[list[Tensor]] = [[], []]
        colours: list[list[Tensor]] = [[], []]
        for index in range(SCENES):
            pixels = render_video([sample_scene(0, index, level=1 + index % 2)], frames, 16, size)
            latents, small = codec.encode(pixels).float().cpu(), seen_by_latents(pixels, codec, detail)
            for part, time in enumerate((slice(0, 1), slice(1, None))):
                known[part].append(_cells(latents[:, :, time]))
                colours[part].append(_patches(small[:, :, time], detail))
        solved = [_solved(torch.cat(rows), torch.cat(seen)) for rows, seen in zip(known, colours, strict=True)]
        return cls(torch.stack(solved), detail)

    def frames(self, latents: Tensor) -> NDArray[np.uint8]:
        """Latents [1, C, T, h, w] to pictures [T, h * d, w * d, 3]."""
        _, _, count, height, width = latents.shape
        cells = _cells(latents.float().cpu())
        first, others = self.weight
        colours = torch.cat(
            (cells[: height * width] @ first, cells[height * width :] @ others)
        )  # [T * h * w, 3 * d * d]
        laid = colours.unflatten(0, (count, height, width)).unflatten(-1, (3, self.detail, self.detail))
        pixels = laid.permute(0, 1, 4, 2, 5, 3).flatten(1, 2).flatten(2, 3)  # [T, h * d, w * d, 3]
        return np.asarray(pixels.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).numpy(), np.uint8)


def _solved(known: Tensor, colours: Tensor) -> Tensor:
    """[N, 9 * C + 1] and [N, 3 * d * d] to what takes the one to the other."""
    known, colours = known.double(), colours.double()
    square = known.T @ known
    square += RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)
    solved: Tensor = torch.linalg.solve(square, known.T @ colours).float()
    return solved


def seen_by_latents(pixels: Tensor, codec: VideoCodec, detail: int) -> Tensor:
    """Pixels [1, 3, F, H, W] averaged to [1, 3, T, h * d, w * d]: what a preview is to look like."""
    step, cell = codec.temporal_compression, codec.spatial_compression // detail
    small = interpolate(pixels[0].transpose(0, 1).float(), scale_factor=1 / cell, mode="area")  # [F, 3, h d, w d]
    groups = [small[:1], *small[1:].split(step)]
    return torch.cat([group.mean(0, keepdim=True) for group in groups]).transpose(0, 1)[None]


def projection_of(components: Components) -> Projection:
    """The model's projection: from the cache, else fitted, which takes some seconds, and cached if that is possible."""
    path = cache_folder() / "previews" / f"{components.digest.removeprefix('sha256:')[:32]}.safetensors"
    told = {"model": components.digest, "scenes": SCENES, "form": FORM}
    held = read_tensors(path, **told)
    if held is not None:
        return Projection(held.tensors["weight"], int(held.facts["detail"]))
    made = Projection.fit(components.video_codec)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, {"weight": made.weight}, {**told, "detail": made.detail})
    except OSError:  # no home, or a full one: it is fitted again next time
        pass
    return made


class Previews:
    """Draws a sheet of the window under way after every so many steps; its `seen` is what generate_clips tells.

    The sheet shows where the steps so far point at: the data estimate, by the last step's mean velocity.
    """

    def __init__(self, every: int, paths: dict[int, Path], projection: Projection, shown: Shown) -> None:
        """paths: of the clips, by seed. shown: is told of each sheet that is written."""
        self._every, self._paths, self._projection, self._shown = every, paths, projection, shown
        self._before: tuple[Window, Moment] | None = None

    def seen(self, request: ClipRequest, window: Window, moment: Moment, times: Schedule) -> None:
        before, self._before = self._before, (window, moment)
        due = moment.step % self._every == 0 or moment.step == times.steps
        if not due or before is None or before[0] != window or before[1].step + 1 != moment.step:
            return
        estimate = _pointed_at(before[1], moment, times)
        if estimate is None:  # no picture is made, or it is given
            return
        path = preview_path(self._paths[request.seed])
        title = f"step {moment.step} of {times.steps}" + (f", window {window.index + 1}" if window.index else "")
        sheet = contact_sheet(self._projection.frames(estimate), title)
        write_preview(path, sheet)
        self._shown(path, sheet, moment.step, times.steps)


Shown = Callable[[Path, Image.Image, int, int], None]  # the file, its picture, the step, the steps


def _pointed_at(before: Moment, now: Moment, times: Schedule) -> Tensor | None:
    earlier, latents = before.latents[0], now.latents[0]
    t = times.video[before.step], times.video[now.step]
    if earlier is None or latents is None or t[0] == t[1]:
        return None
    velocity = (latents - earlier) / (t[1] - t[0])
    return data_estimate(latents, velocity, latents.new_tensor(t[1]))


def contact_sheet(frames: NDArray[np.uint8], title: str) -> Image.Image:
    """Frames [T, H, W, 3], evenly spread ones where there are many, row by row; the title under them."""
    count = min(len(frames), COLUMNS * ROWS)
    picked = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    height, width = picked.shape[1:3]
    scale = CELL / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    sheet = Image.new("RGB", (columns * (size[0] + 2) - 2, rows * (size[1] + 2) + 14), "#16181d")
    for index, frame in enumerate(picked):
        place = index % columns * (size[0] + 2), index // columns * (size[1] + 2)
        sheet.paste(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC), place)
    ImageDraw.Draw(sheet).text((2, rows * (size[1] + 2)), title, fill="#d8dbe2")
    return sheet


def _cells(latents: Tensor) -> Tensor:
    """[1, C, T, h, w] to [T * h * w, 9 * C + 1]: each cell with those around it; the last column is 1."""
    frames = pad(latents[0].transpose(0, 1), (1, 1, 1, 1), mode="replicate")  # [T, C, h + 2, w + 2]
    around = unfold(frames, 3)  # [T, 9 * C, h * w]
    rows = around.transpose(1, 2).flatten(0, 1)
    return torch.cat((rows, rows.new_ones(len(rows), 1)), dim=1)


def _patches(pictures: Tensor, detail: int) -> Tensor:
    """[1, 3, T, h * d, w * d] to [T * h * w, 3 * d * d]."""
    cut = pictures[0].unflatten(3, (-1, detail)).unflatten(2, (-1, detail))  # [3, T, h, d, w, d]
    rows: Tensor = cut.permute(1, 2, 4, 0, 3, 5).flatten(3).flatten(0, 2)
    return rows
