"""select_cubes on CUDA: exact counts, ties to the lowest index, NaN last, against a stable sort.

B batch, M_q, M_k cubes, H heads, d channels per head.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def selected(kernels, queries: Tensor, keys: Tensor, keep: int) -> Tensor:
    """The kernel's choice as booleans [B, H, M_q, M_k]; bits beyond M_k must be clear."""
    B, M_q, H, _ = queries.shape
    M_k = keys.shape[1]
    words = torch.full((B, H, M_q, (M_k + 31) // 32), -1, dtype=torch.int32, device=queries.device)
    kernels.select_cubes(queries, keys, keep, words)
    bits = words.cpu()[..., None] >> torch.arange(32, dtype=torch.int32) & 1
    bits = bits.flatten(-2).bool()
    assert not bits[..., M_k:].any()
    return bits[..., :M_k]


def stable_choice(scores: Tensor, keep: int) -> Tensor:
    """By a stable sort, so that of equal scores the lower index comes first. scores [..., M_k], without NaN."""
    order = torch.argsort(scores, dim=-1, descending=True, stable=True)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order[..., :keep], True)


def integers(*shape: int, dtype, device, high=4, seed=0) -> Tensor:
    """Small whole numbers: every sum of their products is exact, and many are equal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-high, high + 1, shape, generator=generator).to(dtype).to(device)


def exact_scores(queries: Tensor, keys: Tensor) -> Tensor:
    return torch.einsum("bqhd,bkhd->bhqk", queries.cpu().double(), keys.cpu().double())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("M_q", "M_k", "H", "d", "keep"),
    [(3, 5, 2, 16, 2), (2, 33, 1, 20, 7), (1, 200, 2, 64, 64), (2, 64, 1, 8, 64), (3, 1, 1, 4, 1), (130, 7, 1, 4, 3)],
    ids=str,
)
def test_the_highest_scores_with_ties_to_the_lowest_index(kernels, M_q, M_k, H, d, keep, dtype) -> None:
    queries = integers(2, M_q, H, d, dtype=dtype, device=kernels.device)
    keys = integers(2, M_k, H, d, dtype=dtype, device=kernels.device, seed=1)
    ours = selected(kernels, queries, keys, keep)
    assert (ours.sum(-1) == keep).all()
    assert torch.equal(ours, stable_choice(exact_scores(queries, keys), keep))


def test_all_scores_equal_take_the_first(kernels) -> None:
    queries = torch.zeros(1, 2, 1, 8, device=kernels.device)
    keys = torch.ones(1, 70, 1, 8, device=kernels.device)
    assert torch.equal(selected(kernels, queries, keys, 40), torch.arange(70).lt(40).expand(1, 1, 2, 70))


def test_zeros_of_either_sign_are_one_score(kernels) -> None:
    queries = torch.tensor([1.0], device=kernels.device).view(1, 1, 1, 1)
    keys = torch.tensor([-0.0, 0.0, -0.0, 0.0, -1.0], device=kernels.device).view(1, 5, 1, 1)
    assert selected(kernels, queries, keys, 2).flatten().tolist() == [True, True, False, False, False]


def test_not_a_number_comes_after_minus_infinity(kernels) -> None:
    nan, inf = float("nan"), float("inf")
    keys = torch.tensor([nan, -inf, 2.0, nan, inf], device=kernels.device).view(1, 5, 1, 1)
    queries = torch.ones(1, 1, 1, 1, device=kernels.device)
    choices = [selected(kernels, queries, keys, keep).flatten().nonzero().flatten().tolist() for keep in (1, 2, 3, 4)]
    assert choices == [[4], [2, 4], [1, 2, 4], [0, 1, 2, 4]]


def test_rows_longer_than_shared_memory(kernels) -> None:
    M_k = 1100 if kernels.device.type == "cpu" else 70_000  # the emulated GPU has 4 KiB
    queries = integers(1, 3, 1, 4, dtype=torch.float32, device=kernels.device)
    keys = integers(1, M_k, 1, 4, dtype=torch.float32, device=kernels.device, seed=1)
    ours = selected(kernels, queries, keys, M_k // 3)
    assert torch.equal(ours, stable_choice(exact_scores(queries, keys), M_k // 3))


def test_views_of_a_longer_tensor(kernels) -> None:
    both = integers(2, 6, 2, 3, 16, dtype=torch.bfloat16, device=kernels.device)
    queries, keys = both[:, :4, 0], both[:, :, 1]
    ours = selected(kernels, queries, keys, 3)
    assert torch.equal(ours, stable_choice(exact_scores(queries, keys), 3))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scores_of_real_numbers_choose_what_float64_would_but_for_near_ties(kernels, dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    queries = torch.randn(1, 6, 2, 128, generator=generator).to(dtype).to(kernels.device)
    keys = torch.randn(1, 90, 2, 128, generator=generator).to(dtype).to(kernels.device)
    ours, scores = selected(kernels, queries, keys, 30), exact_scores(queries, keys)
    threshold = scores.topk(30).values[..., -1:]
    assert (ours.sum(-1) == 30).all()
    assert (scores[ours].view(1, 2, 6, 30) >= threshold - 1e-4).all()
    assert not (~ours & (scores > threshold + 1e-4)).any()


@pytest.mark.parametrize(("cubes", "H", "B"), [(3060, 24, 1), (15810, 2, 1), (84, 4, 3)])
def test_named_sizes(cuda, cubes, H, B) -> None:
    """Slabs of many heads, of one head, of a part of a head (3060: T=21, 15810: T=121 at 1080p)."""
    queries = integers(B, cubes, H, 64, dtype=torch.bfloat16, device=cuda.device)
    keys = integers(B, cubes, H, 64, dtype=torch.bfloat16, device=cuda.device, seed=1)
    keep = -(-cubes // 3)
    words = torch.empty(B, H, cubes, (cubes + 31) // 32, dtype=torch.int32, device=cuda.device)
    cuda.select_cubes(queries, keys, keep, words)
    shifts = torch.arange(32, dtype=torch.int32, device=cuda.device)
    for h in range(H):
        for first in range(0, cubes, 2048):  # a bounded part of the matrix at a time
            rows = slice(first, first + 2048)
            scores = torch.einsum("bqd,bkd->bqk", queries[:, rows, h].float(), keys[:, :, h].float())
            ours = (words[:, h, rows, :, None] >> shifts & 1).flatten(-2).bool()
            assert torch.equal(ours[..., :cubes], stable_choice(scores, keep))
            assert not ours[..., cubes:].any()


def test_the_same_inputs_give_the_same_bits(cuda) -> None:
    queries, keys = torch.randn(2, 1, 624, 12, 128, device=cuda.device).bfloat16()
    first = selected(cuda, queries, keys, 208)
    assert all(torch.equal(first, selected(cuda, queries, keys, 208)) for _ in range(20))
