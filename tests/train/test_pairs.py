"""Pairs: the small clip is the large one, seen small and slow; wear is a function of the pair's number."""

import numpy as np
import torch
from torch.nn import functional

from sky4.conditioning.refiner import enlarged
from sky4.train.pairs import PairShape, encode_enlarged, encode_pairs, render_pairs, worn_clip

SHAPE = PairShape(size=32, frames=5)
CPU = torch.device("cpu")


class Halving:
    """A codec that halves: one channel group per 8x8 cell, a latent frame for every four."""

    channels, spatial_compression, temporal_compression = 3, 8, 4

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return functional.avg_pool3d(pixels[:, :, ::4], (1, 8, 8))

    def decode(self, latents: torch.Tensor):
        frames = 4 * (latents.shape[2] - 1) + 1
        size = frames, *(8 * side for side in latents.shape[3:])
        yield functional.interpolate(latents, size=size, mode="nearest")


def test_both_show_the_same_scene_at_the_same_moments():
    small, large = render_pairs(1, range(3), SHAPE, 1, CPU)
    assert small.shape == (3, 3, 5, 32, 32) and large.shape == (3, 3, 9, 64, 64)
    shrunk = functional.avg_pool3d(large[:, :, ::2], (1, 2, 2))
    assert float((small - shrunk).abs().mean()) < 0.01


def test_latents_of_all_three_have_their_grids():
    arrays = encode_pairs(1, range(5), SHAPE, 1, Halving(), CPU)
    shapes = {name: array.shape for name, array in arrays.items()}
    assert shapes == {"video": (5, 3, 2, 4, 4), "worn": (5, 3, 2, 4, 4), "high": (5, 3, 3, 8, 8)}


def test_pixels_to_start_from_lie_on_the_large_grid():
    arrays = encode_enlarged(1, range(5), SHAPE, 1, Halving(), CPU)
    assert {name: array.shape for name, array in arrays.items()} == {"video": (5, 3, 3, 8, 8), "high": (5, 3, 3, 8, 8)}
    small, large = render_pairs(1, range(5), SHAPE, 1, CPU)
    plain = Halving().encode(enlarged(small, *large.shape[2:])).numpy()
    off = np.abs(arrays["video"] - plain).mean(axis=(1, 2, 3, 4))
    assert off[0] < 1e-3 and off[4] < 1e-3  # a quarter is as rendered
    assert off[1:4].max() > 1e-3


def test_wear_differs_from_pair_to_pair_and_never_from_time_to_time():
    small, large = render_pairs(1, range(12), SHAPE, 1, CPU)

    def worn(index: int) -> torch.Tensor:
        return worn_clip(1, index, small[index], large[index], SHAPE, Halving())

    off = [float((worn(index) - small[index]).abs().mean()) for index in range(12)]
    assert max(off) > 0.02 and len({round(value, 6) for value in off}) > 6
    assert torch.equal(worn(3), worn(3))
    assert all(bool((worn(index).abs() <= 1.001).all()) for index in range(12))
