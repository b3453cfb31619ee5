"""The keyframes of a batch: some frames of its clips at a higher resolution, from the cache's pairs.

Legend: B batch, C latent channels, T latent frames, h w -> H W latent grid, K keyframes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from sky4.conditioning.assemble import Keyframes
from sky4.conditioning.inpaint import condition_on
from sky4.conditioning.keyframes import keyframe_fill
from sky4.diffusion.flow import noised
from sky4.diffusion.noise import batch_noise
from sky4.train.keyed import generator
from sky4.train.latent_cache import LatentPool
from sky4.train.tasks import Task


@dataclass(frozen=True)
class HighFrames:
    """latents and noise [B, C, K, H, W]; frames: the latent frame of the clip that each of the K is; alone: they are
    made of a clip that is given."""

    latents: Tensor
    noise: Tensor
    frames: tuple[int, ...]
    alone: bool = False

    def part(self, rows: slice) -> HighFrames:
        return replace(self, latents=self.latents[rows], noise=self.noise[rows])

    def to(self, device: torch.device) -> HighFrames:
        return replace(self, latents=self.latents.to(device), noise=self.noise.to(device))

    def keep_mask(self, low: Tensor) -> Tensor:
        """[B, 1, K, H, W]: kept where the clip's own cells, keep mask [B, 1, T, h, w], are, unless made alone."""
        mine = low[:, :, list(self.frames)] * (not self.alone)
        size = mine.shape[2], *self.latents.shape[3:]
        return functional.interpolate(mine, size=size, mode="nearest")

    def given(self, t: Tensor, low_keep: Tensor, black: Tensor) -> Keyframes:
        """What the video tower is given of them at times t [B]; black [1, C, T, h, w]."""
        fill = keyframe_fill(black, len(self.frames), tuple(self.latents.shape[3:]))  # type: ignore[arg-type]
        condition = condition_on(self.latents, self.keep_mask(low_keep), fill)
        return Keyframes(noised(self.latents, self.noise, t), condition, self.frames)


def high_frames(
    pool: LatentPool, items: npt.NDArray[np.int64], task: Task, seed: int, batch: int, numbers: range
) -> HighFrames:
    """Keyframes of the pairs `items`, in the places that are drawn for the batch; the first frame is one of them
    half the time, as users begin with it."""
    random = generator(seed, "keyframes", batch)
    count = min(task.keyframes, task.frames)
    places = set() if random.random() < 0.5 else {0}
    while len(places) < count:
        places.add(int(random.integers(task.frames)))
    frames = tuple(sorted(places))
    high = pool.read("high", items)
    rate = (high.shape[2] - 1) // max(1, pool.shape("video")[1] - 1)
    latents = high[:, :, [frame * rate for frame in frames]]
    return HighFrames(latents, batch_noise(latents.shape[1:], seed, "train keyframes", numbers), frames, task.whole)
