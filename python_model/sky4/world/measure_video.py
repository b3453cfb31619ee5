"""What a clip shows, measured in closed form: colour, shape, size, motion, background, and when things happen.

No learned judge: the world's facts are known, so a clip is compared with the world itself. F frames, H x W pixels,
N x N samples of a normalised picture of the object. Lengths are in unit widths, times in seconds.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from sky4.world.shapes import SHAPE_DISTANCES
from sky4.world.track_events import bounce_times, pulse_times, robust_slope
from sky4.world.vocabulary import BACKGROUNDS, COLOURS, LEVEL_SHAPES, SIZES

Floats = NDArray[np.float64]

CONTRAST = 40.0  # of 255: less than this anywhere and there is nothing to see (the palettes are at least 60 apart)
DEAD_ZONE = (0.3, 0.7)  # coverages below are background, above are object: noise of 8/255 stays out
PATCH = 28  # samples a side of the normalised picture of the object
BLURS = (0.0, 0.1, 0.2, 0.3)  # radii; small things in soft clips lose up to a third
PATCH_EXTENT = 2.0  # its half width in equivalent radii (a star reaches 1.7)
TRAVEL_SPEED = 0.045  # unit widths a second; things of the world travel at 0.1 to 0.12 or not at all
BOUNCE_DEVIATION = 0.04  # spread of y about its line; a bounce of the world has 0.125
LEAST_RADIUS = 1e-4  # unit widths: of a foreign picture the thing that is found is gone most of the time


@dataclass(frozen=True)
class VideoFacts:
    """What was measured; None (and an empty track) where nothing stands out from the background."""

    colour: str | None
    shape: str | None
    size: str | None
    motion: str | None  # bounce, left, right, up, down, static
    direction: str | None  # left, right, up, down, none
    background: str
    track: Floats  # [F, 2] centre (x, y); NaN where the object is not seen
    radius: Floats  # [F]
    events: tuple[float, ...]  # seconds of bounces or pulses
    shape_scores: dict[str, float]

    def x_at(self, time: float, fps: Fraction | float) -> float:
        """Where the object is at `time`, interpolated; NaN when it is never seen."""
        seen = np.isfinite(self.track[:, 0])
        if not seen.any():
            return float("nan")
        return float(np.interp(time * float(fps), np.flatnonzero(seen), self.track[seen, 0]))


@dataclass(frozen=True)
class _Blobs:
    centre: Floats  # [F, 2] in pixels (x, y)
    area: Floats  # [F] in pixels
    whole: NDArray[np.bool_]  # [F] the object does not touch the frame's border


def measure_video(frames: NDArray[np.uint8], fps: Fraction | float, level: int = 1) -> VideoFacts:
    """Measures a clip uint8 [F, H, W, 3] of the world's `level`. Raises ValueError for another layout or type."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames must be uint8 [F, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    size = frames.shape[2]
    pixels = frames.astype(np.float32)
    # The background is a function of the row alone and no object fills half of a row, so the median finds it.
    rows = np.median(pixels.transpose(1, 0, 2, 3).reshape(frames.shape[1], -1, 3), axis=1)  # [H, 3]
    difference = pixels - rows[:, None]
    background = _nearest(rows[int(0.3 * len(rows)) : int(0.7 * len(rows))].mean(0), BACKGROUNDS)
    contrast = np.abs(difference).max(-1)  # [F, H, W]
    peak = float(np.quantile(contrast[::2], 0.99))
    if peak < CONTRAST:
        nothing = np.full((len(frames), 2), np.nan)
        return VideoFacts(None, None, None, None, None, background, nothing, nothing[:, 0], (), {})
    core = np.median(pixels[contrast > 0.75 * peak], axis=0)  # [3]
    colour = _nearest(core / core.max(), {name: _saturated(rgb) for name, rgb in COLOURS.items()})
    blobs, alpha = _blobs(_coverage(difference, core - rows))
    scores = _shape_scores(alpha, blobs, LEVEL_SHAPES[level])
    shape = max(scores, key=lambda name: scores[name])
    area, offset = _form(shape)
    radius = np.sqrt(blobs.area / area) / size
    track = blobs.centre / size - radius[:, None] * offset
    seen = np.isfinite(radius)
    base = float(np.quantile(radius[seen & blobs.whole] if (seen & blobs.whole).any() else radius[seen], 0.3))
    base = max(base, LEAST_RADIUS)
    motion, direction = _motion(track, float(fps))
    finder = bounce_times if motion == "bounce" else pulse_times
    signal = track[:, 1] if motion == "bounce" else radius / base
    return VideoFacts(
        colour=colour,
        shape=shape,
        size=min(SIZES, key=lambda name: abs(np.log(SIZES[name] / base))),
        motion=motion,
        direction=direction,
        background=background,
        track=track,
        radius=radius,
        events=finder(signal, float(fps)),
        shape_scores=scores,
    )


def _saturated(rgb: tuple[int, int, int]) -> tuple[float, ...]:
    return tuple(channel / max(rgb) for channel in rgb)


def _nearest(value: Floats, palette: dict[str, tuple[int, int, int]] | dict[str, tuple[float, ...]]) -> str:
    return min(palette, key=lambda name: float(np.square(value - np.array(palette[name])).sum()))


def _coverage(difference: NDArray[np.float32], step: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far each pixel lies on the way from background to object, 0 to 1 with a dead zone: [F, H, W].

    difference [F, H, W, 3] from the background; step [H, 3] from the background to the object's colour.
    """
    along = np.einsum("fhwc,hc->fhw", difference, step / np.square(step).sum(-1, keepdims=True))
    low, high = DEAD_ZONE
    sharpened: NDArray[np.float32] = np.clip((along - low) / (high - low), 0, 1)
    return sharpened


def _blobs(alpha: NDArray[np.float32]) -> tuple[_Blobs, NDArray[np.float32]]:
    """Centre and area of the object in each frame, and the coverages without what lies far from it."""
    _, height, width = alpha.shape
    xs, ys = np.arange(width) + 0.5, np.arange(height) + 0.5
    for reach in (3.0, 2.2, 2.0):  # in equivalent radii about the centre found before
        area = alpha.sum((1, 2), dtype=np.float64)
        enough = area > 0.002 * height * width
        with np.errstate(invalid="ignore", divide="ignore"):
            x = np.where(enough, alpha.sum(1) @ xs / area, np.nan)
            y = np.where(enough, alpha.sum(2) @ ys / area, np.nan)
            limit = reach * np.sqrt(area / np.pi)
            near = np.square(xs[None, None] - x[:, None, None]) + np.square(ys[None, :, None] - y[:, None, None])
            alpha = alpha * (near < np.square(limit)[:, None, None])
    area = np.where(enough, alpha.sum((1, 2), dtype=np.float64), np.nan)
    border = alpha[:, 0].sum(1) + alpha[:, -1].sum(1) + alpha[:, :, 0].sum(1) + alpha[:, :, -1].sum(1)
    return _Blobs(np.stack([x, y], 1), area, border < 1.0), alpha


def _patches(alpha: NDArray[np.float32], blobs: _Blobs, stretch: float = 1.0) -> NDArray[np.float32]:
    """The object of each frame brought to one place and size: [F, N*N], zero mean, unit length."""
    frames, height, width = alpha.shape
    axis = np.linspace(-PATCH_EXTENT, PATCH_EXTENT, PATCH) * stretch
    reach = np.sqrt(blobs.area / np.pi)[:, None]
    x = np.clip(blobs.centre[:, :1] + axis * reach + 0.5, 0, width + 0.999)  # of the padded picture below
    y = np.clip(blobs.centre[:, 1:] + axis * reach + 0.5, 0, height + 0.999)
    padded = np.pad(alpha, ((0, 0), (1, 1), (1, 1)))
    left, top = np.minimum(x.astype(int), width), np.minimum(y.astype(int), height)
    fx, fy = (x - left)[:, None, :], (y - top)[:, :, None]
    frame, top, left = np.arange(frames)[:, None, None], top[:, :, None], left[:, None, :]
    upper = padded[frame, top, left] * (1 - fx) + padded[frame, top, left + 1] * fx
    lower = padded[frame, top + 1, left] * (1 - fx) + padded[frame, top + 1, left + 1] * fx
    patches = (upper * (1 - fy) + lower * fy).reshape(frames, -1)
    patches -= patches.mean(1, keepdims=True)
    unit: NDArray[np.float32] = patches / (np.linalg.norm(patches, axis=1, keepdims=True) + 1e-6)
    return unit


def _drawn(shape: str, radius: float, size: int = 96) -> NDArray[np.float32]:
    """The shape in the middle of an otherwise empty frame: [1, size, size]."""
    axis = (torch.arange(size, dtype=torch.float32) + 0.5 - size / 2) / radius
    grid = torch.meshgrid(axis, axis, indexing="xy")
    coverage = (0.5 - SHAPE_DISTANCES[shape](grid[0], grid[1]) * radius).clamp(0, 1)
    picture: NDArray[np.float32] = coverage.numpy()[None]
    return picture


@cache
def _form(shape: str) -> tuple[float, Floats]:
    """(area in squared radii, centroid [2] in radii from the shape's centre)."""
    picture, radius, size = _drawn(shape, 24.0), 24.0, 96
    axis = (np.arange(size) + 0.5 - size / 2) / radius
    total = picture.sum(dtype=np.float64)
    centroid = np.array([(picture[0].sum(0) * axis).sum(), (picture[0].sum(1) * axis).sum()]) / total
    return float(total / radius**2), centroid


@cache
def _templates(shape: str) -> NDArray[np.float32]:
    """Normalised pictures of a shape, crisp to blurred and a little too large to a little too small: [K, N*N]."""
    rows = []
    low, high = DEAD_ZONE
    crisp = _drawn(shape, 24.0)[0]
    for blur in BLURS:
        picture = gaussian_filter(crisp, 24.0 * blur)
        picture /= np.quantile(picture[picture > 0.5 * picture.max()], 0.8)  # what is taken for its colour is its core
        blobs, alpha = _blobs(np.clip((picture[None] - low) / (high - low), 0, 1))
        rows += [_patches(alpha, blobs, stretch) for stretch in (0.86, 0.93, 1.0, 1.08, 1.16)]
    return np.concatenate(rows)


def _shape_scores(alpha: NDArray[np.float32], blobs: _Blobs, shapes: tuple[str, ...]) -> dict[str, float]:
    """Correlation of the object with the best picture of each shape: of the mean object, and of the frames' mean."""
    seen = np.isfinite(blobs.area)
    chosen = seen & blobs.whole if (seen & blobs.whole).sum() >= 4 else seen
    pick = np.flatnonzero(chosen)
    patches = _patches(alpha[pick], _Blobs(blobs.centre[pick], blobs.area[pick], blobs.whole[pick]))
    mean = patches.mean(0)
    mean /= np.linalg.norm(mean) + 1e-6
    scores = {}
    for shape in shapes:
        templates = _templates(shape)
        together = float((templates @ mean).max())
        each = float((patches @ templates.T).max(1).mean())
        scores[shape] = 0.5 * (together + each)
    return scores


def _motion(track: Floats, fps: float) -> tuple[str, str]:
    """(motion, direction) of a track [F, 2]."""
    seen = np.isfinite(track[:, 0])
    if seen.sum() < 4:
        return "static", "none"
    time = np.flatnonzero(seen) / fps
    x, y = track[seen].T
    vx, vy = robust_slope(time, x), robust_slope(time, y)
    sideways = "none" if abs(vx) < TRAVEL_SPEED else "left" if vx < 0 else "right"
    # A bounce leaves its line again and again; half-frame jumps of a broken clip do so once, so the spread is robust.
    residual = y - np.median(y) - vy * (time - time.mean())
    if 0.5 * float(np.subtract(*np.quantile(residual, [0.85, 0.15]))) > BOUNCE_DEVIATION:
        return "bounce", sideways
    if max(abs(vx), abs(vy)) < TRAVEL_SPEED:
        return "static", "none"
    direction = sideways if abs(vx) >= abs(vy) else "up" if vy < 0 else "down"
    return direction, direction
