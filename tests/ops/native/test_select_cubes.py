"""The native select_cubes at every instruction-set level, against a stable sort of float64 scores.

B batch, M_q, M_k cubes, H heads, d channels per head.
"""

import math

import pytest
import torch
from torch import Tensor

from sky4 import _C

DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(params=_C.isa_levels(), autouse=True)
def level(request):
    before = _C.isa()
    _C.set_isa(request.param)
    yield request.param
    _C.set_isa(before)


def select(queries: Tensor, keys: Tensor, keep: int) -> Tensor:
    """[B, H, M_q, M_k] bool; the bits beyond M_k must be clear."""
    B, M_q, H, _ = queries.shape
    M_k = keys.shape[1]
    words = torch.full((B, H, M_q, (M_k + 31) // 32), -1, dtype=torch.int32)
    _C.select_cubes(queries, keys, keep, words)
    bits = (words[..., None] >> torch.arange(32, dtype=torch.int32) & 1).bool().flatten(-2)
    assert not bits[..., M_k:].any()
    return bits[..., :M_k]


def scores(queries: Tensor, keys: Tensor) -> Tensor:
    return torch.einsum("bqhd,bkhd->bhqk", queries.double(), keys.double())


def highest(score: Tensor, keep: int) -> Tensor:
    """The `keep` highest, the lower index first of equals, NaN last."""
    chosen = torch.sort(torch.where(score.isnan(), -math.inf, score), dim=-1, descending=True, stable=True).indices
    return torch.zeros_like(score, dtype=torch.bool).scatter(-1, chosen[..., :keep], True)


def whole(*shape: int, dtype=torch.float32, seed=0) -> Tensor:
    """Small whole numbers: their float32 scores are exact in any order of summation, and often equal."""
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


SIZES = [  # B, M_q, M_k, H, d
    (1, 1, 1, 1, 32),
    (2, 5, 7, 3, 64),
    (1, 33, 31, 2, 96),
    (1, 70, 64, 1, 128),
    (1, 9, 200, 2, 40),
    (1, 130, 97, 1, 3),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_exactly_the_highest_are_selected_and_of_equals_the_first(size, dtype):
    B, M_q, M_k, H, d = size
    queries, keys = whole(B, M_q, H, d, dtype=dtype), whole(B, M_k, H, d, dtype=dtype, seed=1)
    score = scores(queries, keys)
    for keep in {1, (M_k + 2) // 3, max(M_k - 1, 1), M_k}:
        assert torch.equal(select(queries, keys, keep), highest(score, keep))


@pytest.mark.parametrize("dtype", DTYPES)
def test_real_scores_are_ranked_as_in_float64_up_to_rounding(dtype):
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(2, 45, 3, 128, generator=generator).to(dtype)
    keys = torch.randn(2, 333, 3, 128, generator=generator).to(dtype)
    score = scores(queries, keys)
    for keep in (1, 40, 111):
        selected = select(queries, keys, keep)
        assert (selected.sum(-1) == keep).all()
        worst = score.masked_fill(~selected, math.inf).amin(-1)
        best_left = score.masked_fill(selected, -math.inf).amax(-1)
        assert (best_left - worst <= 1e-3).all()
        assert torch.equal(selected, highest(score, keep)) or (selected == highest(score, keep)).double().mean() > 0.999


def test_all_equal_scores_select_the_first():
    queries, keys = torch.randn(1, 20, 2, 64), torch.randn(1, 1, 2, 64).expand(1, 75, 2, 64).contiguous()
    for keep in (1, 32, 33, 75):
        selected = select(queries, keys, keep)
        assert selected[..., :keep].all() and not selected[..., keep:].any()


def test_zero_and_minus_zero_are_equal():
    queries = torch.ones(1, 3, 1, 32)
    keys = torch.zeros(1, 6, 1, 32)
    keys[:, :3] = -0.0
    keys[:, 5] = -1
    assert select(queries, keys, 4)[0, 0].tolist() == [[True] * 4 + [False] * 2] * 3


def test_not_a_number_comes_last_even_after_minus_infinity():
    queries = torch.ones(1, 4, 1, 32)
    keys = whole(1, 40, 1, 32).float()
    keys[0, [0, 7, 33], 0, 3] = math.nan
    keys[0, 12, 0, 0] = -math.inf
    keys[0, 13, 0, 0] = math.inf
    numbers = select(queries, keys, 37)[0, 0]
    assert not numbers[:, [0, 7, 33]].any() and (numbers.sum(-1) == 37).all()
    assert select(queries, keys, 1)[0, 0, :, 13].all()
    assert not select(queries, keys, 36)[0, 0, :, 12].any()
    one_more = select(queries, keys, 38)[0, 0]
    assert one_more[:, 0].all() and not one_more[:, [7, 33]].any()
    assert select(queries, keys, 40).all()


def test_strided_tensors_are_read_as_they_lie():
    queries, keys = whole(1, 21, 3, 64, seed=2), whole(1, 50, 3, 64, seed=3)
    wide = torch.zeros(1, 50, 3, 3, 64)
    wide[:, :, 2] = keys
    heads_first = queries.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(select(heads_first, wide[:, :, 2], 9), select(queries, keys, 9))


def test_more_cubes_than_one_thread_s_scores_hold():
    queries, keys = whole(1, 70, 1, 8, seed=4), whole(1, 40000, 1, 8, seed=5)
    assert torch.equal(select(queries, keys, 13333), highest(scores(queries, keys), 13333))


def test_the_number_of_threads_changes_nothing(monkeypatch):
    queries, keys = torch.randn(1, 200, 2, 64), torch.randn(1, 150, 2, 64)
    usual = select(queries, keys, 50)
    monkeypatch.setenv("SKY4_THREADS", "1")
    assert torch.equal(select(queries, keys, 50), usual)


@pytest.mark.parametrize("keep", [0, -1, 8])
def test_an_impossible_count_is_refused(keep):
    with pytest.raises(ValueError, match=rf"select_cubes: keep is {keep}, expected 1 to 7 \(the key cubes\)"):
        select(torch.zeros(1, 2, 1, 32), torch.zeros(1, 7, 1, 32), keep)


def test_bad_arguments_are_named():
    queries, keys = torch.zeros(1, 2, 1, 32), torch.zeros(1, 7, 1, 32)
    with pytest.raises(TypeError, match="select_cubes: keys has dtype bfloat16, expected float32"):
        select(queries, keys.bfloat16(), 1)
    with pytest.raises(ValueError, match=r"keys has shape \[1, 7, 1, 31\], expected \[1, 7, 1, 32\]"):
        select(queries, keys[..., :31].contiguous(), 1)
    with pytest.raises(ValueError, match=r"selected has shape \[1, 1, 2, 2\], expected \[1, 1, 2, 1\]"):
        _C.select_cubes(queries, keys, 1, torch.zeros(1, 1, 2, 2, dtype=torch.int32))
