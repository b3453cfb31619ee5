"""Tiles cover everything once, and blending undoes cutting."""

from itertools import pairwise

import pytest
import torch

from sky4.conditioning.tiles import Tiling, blended, spans, tiles


@pytest.mark.parametrize("length", [1, 2, 5, 8, 9, 13, 31, 64])
@pytest.mark.parametrize("most,overlap", [(8, 2), (5, 3), (64, 0), (8, 0)])
def test_spans_cover_an_axis_and_their_weights_sum_to_one(length: int, most: int, overlap: int):
    cut, total = spans(length, most, overlap), torch.zeros(length)
    for span in cut:
        assert 0 <= span.begin < span.end <= length and span.end - span.begin <= most
        total[span.begin : span.end] += span.weight
    assert torch.allclose(total, torch.ones(length), atol=1e-6)
    for before, after in pairwise(cut):
        assert before.end - after.begin >= overlap


def test_spans_begin_on_whole_patches():
    assert all(span.begin % 2 == 0 and span.end % 2 == 0 for span in spans(46, 17, 3, unit=2))


def test_weights_fall_towards_the_neighbour():
    first, *_ = spans(20, 8, 4)
    assert torch.all(first.weight.diff() <= 1e-6) and first.weight[0] == 1


def test_blending_the_tiles_of_a_clip_gives_the_clip():
    latents = torch.randn(2, 3, 9, 12, 20, generator=torch.Generator().manual_seed(0))
    cut = tiles((9, 12, 20), Tiling((5, 8, 8), (2, 3, 3)), patch=2)
    assert len(cut) > 8
    assert torch.allclose(blended(latents, cut, lambda part: latents[part]), latents, atol=1e-5)


def test_a_tile_shares_less_than_all_of_itself():
    with pytest.raises(ValueError, match="cannot share 8"):
        Tiling((8, 8, 8), (0, 8, 0))
