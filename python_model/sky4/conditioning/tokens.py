"""Latents to tokens and back, and every token's place in the one coordinate system.

Legend: B batch, C latent channels, T latent frames, H W latent grid, p patch side, h = H/p, w = W/p,
N = T*h*w video tokens, A audio tokens, 3 = (time, y, x) in video-latent units.
A token's channels run (C, p, p), channel slowest, the order in which a patch convolution's weight is stored;
tokens run (T, h, w), time slowest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import torch
from torch import Tensor

from sky4.geometry import ClipGeometry

SWITCH_GAP = 1.0  # latent frames between two shots on the time axis


@dataclass(frozen=True)
class ShotSwitch:
    """Where another shot begins inside a window: from latent frame `frame` and audio token `token` on, times lie a gap
    later (model.md section 4)."""

    frame: int
    token: int

    @classmethod
    def at(cls, geometry: ClipGeometry, frame: int) -> ShotSwitch:
        """Before pixel frame `frame` of a window. ValueError inside a latent frame, which cannot show two shots."""
        step = geometry.temporal_compression
        if not 0 < frame < geometry.frames or (frame - 1) % step:
            raise ValueError(f"a shot begins with frame {step}n + 1 of the {geometry.frames}, got {frame}")
        heard = frame / geometry.fps * geometry.sample_rate / geometry.hop
        return cls((frame - 1) // step + 1, ceil(heard))


def patchify_video(latents: Tensor, patch: int = 2) -> Tensor:
    """Cut latents [B, C, T, H, W] into tokens [B, N, C*p*p].

    Raises ValueError where the grid is no multiple of the patch.
    """
    batch, channels, frames, height, width = latents.shape
    if height % patch or width % patch:
        raise ValueError(f"the latent grid {height}x{width} must be a multiple of the patch {patch} on both sides")
    grid = latents.reshape(batch, channels, frames, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 3, 5, 1, 4, 6).reshape(  # [B, T, h, w, C, p, p] -> [B, N, C*p*p]
        batch, frames * (height // patch) * (width // patch), channels * patch * patch
    )


def unpatchify_video(tokens: Tensor, shape: Sequence[int], patch: int = 2) -> Tensor:
    """Put tokens [B, N, C*p*p] back together as latents [B, C, T, H, W]; `shape` ends in (T, H, W).

    C follows from the tokens. Raises ValueError where the number of tokens does not fit the shape.
    """
    frames, height, width = shape[-3:]
    batch, count, features = tokens.shape
    rows, columns = height // patch, width // patch
    if count != frames * rows * columns or height % patch or width % patch or features % (patch * patch):
        raise ValueError(
            f"{count} tokens of {features} channels do not fill {frames} frames of {height}x{width} (patch {patch})"
        )
    grid = tokens.reshape(batch, frames, rows, columns, features // (patch * patch), patch, patch)
    return grid.permute(0, 4, 1, 2, 5, 3, 6).reshape(batch, -1, frames, height, width)


def video_positions(
    frames: int,
    rows: int,
    columns: int,
    start: float = 0.0,
    device: torch.device | None = None,
    switch: ShotSwitch | None = None,
) -> Tensor:
    """Positions [T*h*w, 3] float32 of a video's tokens: (start + j, y, x) (model.md section 4).

    `start` is where this segment begins on the running time axis of a video made in several segments.
    """
    times = _switched(torch.arange(frames, dtype=torch.float64) + start, None if switch is None else switch.frame)
    return _grid(times, _indices(rows), _indices(columns)).to(device)


def audio_positions(
    tokens: int,
    scale: Fraction | float,
    start: float = 0.0,
    device: torch.device | None = None,
    switch: ShotSwitch | None = None,
) -> Tensor:
    """Positions [A, 3] float32 of audio tokens: (start + a*scale, 0, 0), scale = T_v/T_a in video-latent units."""
    times = torch.arange(tokens, dtype=torch.float64) * float(scale) + start
    times = _switched(times, None if switch is None else switch.token)
    return _on_time_axis(times).to(device)


def reference_positions(frames: int, rows: int, columns: int, device: torch.device | None = None) -> Tensor:
    """Positions [N, 3] of `frames` reference latent frames: times -N_cond ... -1, spatial indices kept."""
    return video_positions(frames, rows, columns, start=-float(frames), device=device)


def audio_reference_positions(tokens: int, scale: Fraction | float, device: torch.device | None = None) -> Tensor:
    """Positions [A, 3] of `tokens` audio reference tokens: times (-N_ref + i)*scale."""
    times = (torch.arange(tokens, dtype=torch.float64) - tokens) * float(scale)
    return _on_time_axis(times).to(device)


def keyframe_positions(
    frames: Sequence[int],
    grid: tuple[int, int],
    low_grid: tuple[int, int],
    start: float = 0.0,
    device: torch.device | None = None,
) -> Tensor:
    """Positions [K*h*w, 3] of high-resolution keyframes on the low grid's coordinates.

    frames: the latent frame index of each of the K keyframes; grid: the keyframes' own (h, w) in patches;
    low_grid: the sequence's (h, w). y and x are stretched by low/high, so that both grids cover one picture.
    """
    times = torch.tensor([float(frame) for frame in frames], dtype=torch.float64) + start
    rows = _indices(grid[0]) * low_grid[0] / grid[0]
    columns = _indices(grid[1]) * low_grid[1] / grid[1]
    return _grid(times, rows, columns).to(device)


def next_segment_start(start: float, frames: int, shot_switch: bool = False) -> float:
    """Where the segment after one of `frames` latent frames starts: its end, plus a gap of 1 at a shot switch."""
    return start + frames + (SWITCH_GAP if shot_switch else 0.0)


def _switched(times: Tensor, first: int | None) -> Tensor:
    """Times [N], those from number `first` on a gap later."""
    if first is not None:
        times[first:] += SWITCH_GAP
    return times


def _indices(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.float64)


def _grid(times: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    axes = torch.meshgrid(times, rows, columns, indexing="ij")
    return torch.stack(axes, dim=-1).reshape(-1, 3).float()


def _on_time_axis(times: Tensor) -> Tensor:
    return torch.stack((times, torch.zeros_like(times), torch.zeros_like(times)), dim=-1).float()
