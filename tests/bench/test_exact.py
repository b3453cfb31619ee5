"""What errors are measured against, and what fidelity is measured by, against what torch or arithmetic says."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from sky4.bench import exact
from sky4.bench.assemble import _composed
from sky4.bench.cases import Setting
from sky4.bench.opponents import norm_rope
from sky4.bench.quality import MOST_DB, latent_psnr, log_mel_distance, mel_filters
from sky4.bench.shapes import CubeShape
from sky4.bench.sparse import Selection, gathered
from sky4.ops.assemble_reference import latent_assemble_reference
from sky4.ops.cubes import bits_to_mask

SETTING = Setting(torch.device("cpu"), torch.float32, 0, "reference", math.inf)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_rows_of_attention_are_those_of_torch_in_float64() -> None:
    q, k, v = random(3, 1, 40, 2, 8).unbind(0)
    rows, allowed = torch.tensor([0, 7, 39]), random(2, 3, 40) > -0.5
    expected = F.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q, k, v)), attn_mask=torch.ones(1, 2, 40, 40, dtype=torch.bool)
    ).transpose(1, 2)
    assert torch.allclose(exact.attention(q, k, v, torch.arange(40)), expected, atol=1e-12)
    mask = torch.ones(1, 2, 40, 40, dtype=torch.bool)
    mask[0][:, rows] = allowed
    masked = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=mask).transpose(1, 2)
    assert torch.allclose(exact.attention(q, k, v, rows, allowed), masked[:, rows], atol=1e-12)


def test_the_gradient_of_some_rows_is_that_of_autograd() -> None:
    q, k, v, grad = random(4, 1, 24, 2, 8).unbind(0)
    q.requires_grad_()
    out = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    (expected,) = torch.autograd.grad(out, q, grad)
    rows = torch.tensor([3, 20])
    assert torch.allclose(exact.query_gradient(q.detach(), k, v, grad, rows), expected[:, rows], atol=1e-12)


def test_preparation_in_float64_agrees_with_the_opponents() -> None:
    x, weight = random(1, 10, 2, 8), random(8)
    turn = torch.polar(torch.ones(1, 10, 1, 4), torch.linspace(0, 3, 40).view(1, 10, 1, 4))
    for given in (turn, None):
        found = norm_rope(x.float(), weight.float(), given, 1e-6)
        assert torch.allclose(found.double(), exact.norm_rope(x, weight, given, 1e-6), atol=1e-5)


def test_large_shapes_are_checked_on_rows_that_include_the_ends() -> None:
    rows = exact.checked_rows(100_000, 10**12)
    assert (len(rows), int(rows[0]), int(rows[-1])) == (64, 0, 99_999)
    assert exact.told_rows(rows, 100_000) == "64 of 100000 rows"
    assert len(exact.checked_rows(1000, 2**20)) == 1000


@pytest.mark.parametrize("grid", [(4, 4, 32), (5, 6, 7)])
@pytest.mark.parametrize("text", [0, 5])
def test_the_gathered_opponent_computes_the_selection(grid: tuple[int, int, int], text: int) -> None:
    shape = CubeShape("test", 2, grid, 3, 32, text)
    chosen = Selection.random(shape, SETTING)
    tokens = math.prod(grid)
    q, k, v = random(3, 1, tokens, 2, 32).float().unbind(0)
    words = tuple(random(2, 1, text, 2, 32).float().unbind(0)) if text else None
    found = gathered(q, k, v, chosen, words)()
    rows = torch.arange(tokens)
    keys, values = (torch.cat([k, words[0]], 1), torch.cat([v, words[1]], 1)) if words else (k, v)
    expected = exact.attention(q, keys, values, rows, chosen.allowed(rows, text))
    assert exact.max_error(found, expected) < 1e-5


def test_a_selection_keeps_as_many_cubes_as_asked_and_counts_its_pairs() -> None:
    shape = CubeShape("test", 2, (5, 6, 7), 3, 32)
    chosen = Selection.random(shape, SETTING)
    mask = bits_to_mask(chosen.bits, len(chosen.sizes))[0]
    assert bool((mask.sum(-1) == 3).all())
    assert chosen.pairs() == int(chosen.allowed(torch.arange(210), 0).sum())


def test_the_composed_refiner_input_is_that_of_the_reference() -> None:
    low, noise, source = random(1, 3, 3, 4, 5).float(), random(1, 3, 5, 8, 10).float(), random(1, 3, 5, 8, 10).float()
    keyframes, indices = random(1, 3, 2, 8, 10).float(), torch.tensor([0, 4])
    keep = torch.zeros(1, 1, 5, 8, 10)
    keep[..., 5:] = 1
    expected = latent_assemble_reference(low, noise, keyframes, indices, source, keep)
    assert torch.allclose(_composed(low, noise, keyframes, indices, source, keep), expected, atol=1e-5)


def test_psnr_is_that_of_the_references_range() -> None:
    truth = torch.tensor([0.0, 1.0, 2.0, 4.0])
    assert latent_psnr(truth + 0.04, truth) == pytest.approx(40.0, abs=1e-3)
    assert latent_psnr(truth, truth) == MOST_DB


def test_half_as_loud_is_six_decibels_apart_everywhere() -> None:
    wave = torch.randn(2, 44100, generator=torch.Generator().manual_seed(0)) * 0.1
    assert log_mel_distance(wave, wave, 44100) == 0
    assert log_mel_distance(wave / 2, wave, 44100) == pytest.approx(20 * math.log10(2), abs=1e-3)


def test_mel_bands_are_triangles_over_the_whole_range() -> None:
    filters = mel_filters(44100)
    assert filters.shape == (80, 1025)
    assert bool((filters >= 0).all()) and float(filters.max()) <= 1
    assert bool((filters.sum(-1) > 0)[20:].all())
