"""Cubes of a grid and the ways to write a selection of them."""

from __future__ import annotations

import pytest
import torch

from sky4.ops.cubes import (
    CubeTiling,
    bits_to_lists,
    bits_to_mask,
    cube_tiling,
    lists_to_bits,
    mask_to_bits,
)

GRIDS = [(8, 16, 16), (4, 8, 8), (9, 10, 7), (5, 7, 3), (1, 9, 9), (1, 1, 1), (21, 4, 30)]


@pytest.mark.parametrize("slab", [False, True])
@pytest.mark.parametrize("grid", GRIDS)
def test_cube_order_is_a_permutation_with_its_inverse(grid: tuple[int, int, int], slab: bool) -> None:
    tiling = cube_tiling(grid, residual_slab=slab)
    assert torch.equal(tiling.order.sort().values, torch.arange(tiling.tokens))
    assert torch.equal(tiling.order[tiling.inverse], torch.arange(tiling.tokens))
    x = torch.randn(2, tiling.tokens, 3)
    assert torch.equal(tiling.untile(tiling.tile(x)), x)


@pytest.mark.parametrize("slab", [False, True])
@pytest.mark.parametrize("grid", GRIDS)
def test_sizes_are_those_of_the_cubes_tokens(grid: tuple[int, int, int], slab: bool) -> None:
    tiling = cube_tiling(grid, residual_slab=slab)
    assert tiling.sizes.sum() == tiling.tokens and tiling.sizes.min() >= 1 and tiling.sizes.max() <= 64
    assert torch.equal(tiling.starts.diff(), tiling.sizes) and tiling.starts[0] == 0
    assert tiling.cubes == len(tiling.sizes) and tiling.starts.dtype == torch.int32


@pytest.mark.parametrize("grid", GRIDS)
def test_cubes_follow_by_time_row_column_and_so_do_their_tokens(grid: tuple[int, int, int]) -> None:
    tiling = cube_tiling(grid)
    frames, height, width = grid
    rows = [
        (t, y, x)
        for t0 in range(0, frames, 4)
        for y0 in range(0, height, 4)
        for x0 in range(0, width, 4)
        for t in range(t0, min(t0 + 4, frames))
        for y in range(y0, min(y0 + 4, height))
        for x in range(x0, min(x0 + 4, width))
    ]
    assert tiling.order.tolist() == [(t * height + y) * width + x for t, y, x in rows]


def test_a_lone_last_frame_is_cut_in_slabs_where_asked() -> None:
    plain, slab = cube_tiling((21, 68, 120)), cube_tiling((21, 68, 120), residual_slab=True)
    assert (plain.cubes, slab.cubes) == (3060, 2685)
    count = 20 * 68 * 120
    assert torch.equal(plain.order[:count], slab.order[:count])
    first = slab.order[count : count + 64].sub(count).view(8, 8)
    assert torch.equal(first, torch.arange(8)[:, None] * 120 + torch.arange(8))
    assert cube_tiling((20, 8, 8), residual_slab=True).cubes == cube_tiling((20, 8, 8)).cubes  # no lone frame, no slab


def test_a_tiling_made_without_gradients_serves_with_them() -> None:
    cube_tiling.cache_clear()
    with torch.inference_mode():
        cube_tiling((5, 4, 4)).tile(torch.zeros(1, 80, 1))
    x = torch.zeros(1, 80, 1, requires_grad=True)
    cube_tiling((5, 4, 4)).tile(x).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_equal_sides_give_the_same_tiling() -> None:
    assert cube_tiling((5, 4, 4)) is cube_tiling((5, 4, 4)) and cube_tiling((5, 4, 4)) == CubeTiling((5, 4, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0, 4, 4),), r"sides of at least 1, got \(0, 4, 4\)"),
        (((4, 4, 4), (4, 4, 5)), r"1 to 64 tokens, got \(4, 4, 5\) = 80"),
        (((5, 4, 4), (2, 4, 8), True), r"residual_slab for cube \(4, 4, 4\) only, got \(2, 4, 8\)"),
    ],
)
def test_impossible_tilings_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CubeTiling(*arguments)


@pytest.mark.parametrize("cubes", [1, 31, 32, 33, 70])
def test_bits_masks_and_lists_say_the_same(cubes: int) -> None:
    mask = torch.rand(2, 3, 5, cubes, generator=torch.Generator().manual_seed(cubes)) < 0.4
    mask[0, 0, 0], mask[0, 0, 1] = False, True
    bits = mask_to_bits(mask)
    assert bits.dtype == torch.int32 and bits.shape == (2, 3, 5, -(-cubes // 32))
    for k in range(cubes):
        assert torch.equal((bits[..., k // 32] >> (k % 32)) & 1, mask[..., k].int())
    assert torch.equal(bits_to_mask(bits, cubes), mask)
    index, number = bits_to_lists(bits, cubes)
    assert torch.equal(number, mask.sum(-1, dtype=torch.int32)) and index.dtype == torch.int32
    for row, count, wanted in zip(index.flatten(0, 2), number.flatten(), mask.flatten(0, 2), strict=True):
        assert row[:count].tolist() == wanted.nonzero().flatten().tolist() and (row[count:] == -1).all()
    assert torch.equal(lists_to_bits(index, number, cubes), bits)
    assert torch.equal(lists_to_bits(index.flip(-1), torch.full_like(number, cubes) * 0, cubes), torch.zeros_like(bits))


def test_too_few_words_are_refused() -> None:
    with pytest.raises(ValueError, match="needs 3 words for 70 cubes, got 2"):
        bits_to_mask(torch.zeros(1, 2, dtype=torch.int32), 70)
