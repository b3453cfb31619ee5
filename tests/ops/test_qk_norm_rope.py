"""The fused norm and rotation against the specification and its own derivative."""

from __future__ import annotations

import pytest
import torch

from sky4.ops.qk_norm_rope import qk_norm_rope
from sky4.ops.reference import qk_norm_rope as specified


def given(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    qkv = torch.randn(2, 5, 3, 4, 8, generator=generator).to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    angle = torch.randn(1, 5, 1, 4, generator=generator).to(wide)
    return qkv[:, :, 1], torch.rand(8, generator=generator).to(wide) + 0.5, torch.polar(torch.ones_like(angle), angle)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("turned", [True, False])
def test_values_and_gradients_equal_the_specification(dtype: torch.dtype, turned: bool) -> None:
    x, weight, turn = given(dtype)
    results = []
    for function in (qk_norm_rope, specified):
        a, w = x.clone().requires_grad_(), weight.clone().requires_grad_()
        out = function(a, w, turn if turned else None, 1e-6)
        out.backward(torch.linspace(-1, 1, out.numel()).view_as(out).to(dtype))
        results.append((out, a.grad, w.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("turned", [True, False])
def test_the_backward_is_the_derivative(turned: bool) -> None:
    x, weight, turn = given(torch.float64)
    small = x[:1, :2, :2].clone().requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, w: qk_norm_rope(a, w, turn[:, :2] if turned else None, 1e-6), small)


def test_the_input_is_left_as_it_was() -> None:
    x, weight, turn = given(torch.float32)
    before = x.clone()
    qk_norm_rope(x, weight, turn, 1e-6)
    assert torch.equal(x, before)


def test_a_rotation_keeps_lengths_and_weights_of_one_make_them_the_root_of_d() -> None:
    x, _, turn = given(torch.float32)
    out = qk_norm_rope(x, torch.ones(8), turn, 1e-6)
    torch.testing.assert_close(out.norm(dim=-1), torch.full(x.shape[:-1], 8**0.5), atol=1e-4, rtol=0)


def test_shapes_that_do_not_fit_are_named() -> None:
    x, weight, turn = given(torch.float32)
    with pytest.raises(ValueError, match=r"weight \[d\], got \[2, 5, 4, 8\], \[7\]"):
        qk_norm_rope(x, weight[:7], turn, 1e-6)
    with pytest.raises(ValueError, match="needs a rotation"):
        qk_norm_rope(x, weight, turn[:, :3], 1e-6)
