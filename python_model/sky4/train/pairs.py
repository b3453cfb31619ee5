"""Pairs: one scene small and slow, and large and fast; the small one also worn, as what a refiner meets is.

The world's time is continuous, so both are exact. A worn clip is the large one shrunk in one of four ways, or the small
one itself, then blurred, noised and coded once more, each by chance. For a refiner that starts from pixels the small
clips are enlarged before they are encoded.

Legend: S pairs, C latent channels, T -> T2 latent frames, h w -> H W latent grid, F pixel frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sky4.conditioning.refiner import enlarged
from sky4.encoders.protocols import VideoCodec
from sky4.train.keyed import generator
from sky4.world.render import render_video
from sky4.world.scene import CLIP_SECONDS, Scene, sample_scene

AT_ONCE = 4
CODED = 0.4  # share of the worn clips that are coded once more
SHRINKS = ("rendered", "area", "bilinear", "bicubic", "nearest")


@dataclass(frozen=True)
class PairShape:
    """The small clip's pixels a side, frames and rate; how many times larger and faster the large one is."""

    size: int = 64
    frames: int = 17
    fps: int = 16
    scale: int = 2
    rate: int = 2

    @property
    def high_frames(self) -> int:
        return (self.frames - 1) * self.rate + 1


@dataclass(frozen=True)
class PairSet(PairShape):
    """So many pairs of one shape."""

    pairs: int = 512


def pair_scene(seed: int, index: int, level: int, split: str = "train") -> tuple[Scene, float]:
    """A scene and the second at which its pair begins."""
    scene = sample_scene(seed, index, split, level)  # type: ignore[arg-type]
    return scene, float(generator(seed, "pair start", index).uniform(0, CLIP_SECONDS / 2))


def render_pairs(
    seed: int, indices: range, shape: PairShape, level: int, device: torch.device, split: str = "train"
) -> tuple[Tensor, Tensor]:
    """(small [S, 3, F, s, s], large [S, 3, F2, scale*s, scale*s]) pixels in -1..1."""
    scenes, starts = zip(*(pair_scene(seed, index, level, split) for index in indices), strict=True)
    small = render_video(scenes, shape.frames, shape.fps, shape.size, starts, device)
    large = render_video(scenes, shape.high_frames, shape.fps * shape.rate, shape.size * shape.scale, starts, device)
    return small, large


def encode_pairs(
    seed: int, indices: range, shape: PairShape, level: int, codec: VideoCodec, device: torch.device
) -> dict[str, np.ndarray]:
    """video and worn [S, C, T, h, w] of the small clips, high [S, C, T2, H, W] of the large ones; float16."""
    rows: dict[str, list[Tensor]] = {name: [] for name in ("video", "worn", "high")}
    for at in range(0, len(indices), AT_ONCE):
        some = indices[at : at + AT_ONCE]
        small, large = render_pairs(seed, some, shape, level, device)
        rows["video"].append(codec.encode(small).cpu())
        rows["high"].append(codec.encode(large).cpu())
        worn = [worn_clip(seed, index, a, b, shape, codec) for index, a, b in zip(some, small, large, strict=True)]
        rows["worn"].append(codec.encode(torch.stack(worn)).cpu())
    return {name: torch.cat(parts).to(torch.float16).numpy() for name, parts in rows.items()}


def encode_enlarged(
    seed: int, indices: range, shape: PairShape, level: int, codec: VideoCodec, device: torch.device
) -> dict[str, np.ndarray]:
    """video: the small clips enlarged, a quarter of them as rendered and the others worn, mostly by the codec, which
    made clips come from; high: the large ones. Both [S, C, T2, H, W], float16."""
    rows: dict[str, list[Tensor]] = {name: [] for name in ("video", "high")}
    for at in range(0, len(indices), AT_ONCE):
        some = indices[at : at + AT_ONCE]
        small, large = render_pairs(seed, some, shape, level, device)
        worn = [
            a if index % 4 == 0 else worn_clip(seed, index, a, b, shape, codec, 0.7)
            for index, a, b in zip(some, small, large, strict=True)
        ]
        rows["high"].append(codec.encode(large).cpu())
        rows["video"].append(codec.encode(enlarged(torch.stack(worn), *large.shape[2:])).cpu())
    return {name: torch.cat(parts).to(torch.float16).numpy() for name, parts in rows.items()}


def worn_clip(
    seed: int, index: int, small: Tensor, large: Tensor, shape: PairShape, codec: VideoCodec, coded: float = CODED
) -> Tensor:
    """A worn small clip [3, F, s, s] of small [3, F, s, s] and large [3, F2, S, S]."""
    random = generator(seed, "wear", index)
    way = SHRINKS[int(random.integers(len(SHRINKS)))]
    clip = small if way == "rendered" else _shrunk(large[:, :: shape.rate], shape.size, way)
    if random.random() < 0.3:
        clip = _blurred(clip, random.uniform(0.3, 0.9))
    if random.random() < 0.4:
        noise = random.standard_normal(tuple(clip.shape), dtype=np.float32)
        clip = clip + random.uniform(0.01, 0.08) * torch.from_numpy(noise).to(clip)
    clip = clip.clamp(-1, 1)
    if random.random() < coded:
        clip = torch.cat(list(codec.decode(codec.encode(clip[None]))), dim=2)[0].to(clip)
    return clip


def _shrunk(clip: Tensor, size: int, way: str) -> Tensor:
    """[3, F, S, S] to [3, F, size, size]."""
    frames = clip.transpose(0, 1)
    if way in ("bilinear", "bicubic"):
        out = functional.interpolate(frames, (size, size), mode=way, antialias=True)
    else:
        out = functional.interpolate(frames, (size, size), mode=way)
    return out.transpose(0, 1)


def _blurred(clip: Tensor, sigma: float) -> Tensor:
    """A Gaussian of `sigma` pixels over rows and columns of [3, F, s, s]."""
    at = torch.arange(-2, 3, dtype=clip.dtype, device=clip.device)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    planes = functional.pad(clip.flatten(0, 1)[:, None], (2, 2, 2, 2), mode="replicate")
    planes = functional.conv2d(functional.conv2d(planes, kernel.view(1, 1, 1, 5)), kernel.view(1, 1, 5, 1))
    return planes[:, 0].reshape(clip.shape)
