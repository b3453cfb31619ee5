"""The fused norm and rotation against the specification in float64 and against its own derivative."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sky4.ops import reference
from sky4.ops.cubes import cube_tiling
from sky4.ops.qk_norm_rope import qk_norm_rope

BACKENDS = ("torch", "cpu")
DTYPES = (torch.float32, torch.bfloat16)
EPS = 1e-6


def given(dtype: torch.dtype, channels: int = 8, tokens: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """(x [2, N, 4, d], a view; weight [d]; rotation)."""
    generator = torch.Generator().manual_seed(1)
    qkv = torch.randn(2, tokens, 3, 4, channels, generator=generator).to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    angle = torch.randn(1, tokens, 1, channels // 2, generator=generator).to(wide)
    weight = torch.rand(channels, generator=generator).to(wide) + 0.5
    return qkv[:, :, 1], weight, torch.polar(torch.ones_like(angle), angle)


def exact(x: Tensor, weight: Tensor | None, turn: Tensor | None, bias: Tensor | None = None) -> Tensor:
    x, weight, bias = (None if t is None else t.double() for t in (x, weight, bias))
    return reference.qk_norm_rope(x, weight, None if turn is None else turn.to(torch.complex128), EPS, bias)


def assert_rounded_once(found: Tensor, truth: Tensor) -> None:
    """Half a unit in the last place, and for float32 the errors of its own arithmetic."""
    unit = 2.0**-8 if found.dtype == torch.bfloat16 else 2.0**-20
    assert ((found.double() - truth).abs() <= unit * truth.abs() + 1e-6).all()


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [2, 6, 64, 96, 128])
@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("norm", ["head", "heads", "none"])
@pytest.mark.parametrize("biased", [True, False])
def test_it_rounds_the_specification_once(
    backend: str, dtype: torch.dtype, channels: int, turned: bool, norm: str, biased: bool
) -> None:
    x, weight, turn = given(dtype, channels)
    weight = {"head": weight, "heads": weight * torch.linspace(0.5, 1.5, 4)[:, None], "none": None}[norm]
    turn = turn if turned else None
    bias = torch.linspace(-1, 1, 4 * channels).view(4, channels) if biased else None
    out = qk_norm_rope(x, weight, turn, EPS, bias=bias, backend=backend)
    assert out.dtype == dtype
    assert_rounded_once(out, exact(x, weight, turn, bias))


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_sample_may_have_its_own_rotation(backend: str) -> None:
    x, weight, turn = given(torch.float32)
    turn = torch.cat([turn, turn.conj()])
    assert_rounded_once(qk_norm_rope(x, weight, turn, EPS, backend=backend), exact(x, weight, turn))


def run(backend: str, x: Tensor, weight: Tensor | None, turn: Tensor | None, **more: Tensor | None) -> list[Tensor]:
    """The results and the gradients of x, weight and bias, at a gradient that every dtype holds exactly."""
    bias = more.pop("bias", None)
    leaves = [None if t is None else t.clone().requires_grad_() for t in (x, weight, bias)]
    outs = qk_norm_rope(leaves[0], leaves[1], turn, EPS, bias=leaves[2], backend=backend, **more)
    outs = outs if isinstance(outs, tuple) else (outs,)
    loss = sum((out * (torch.arange(out.numel()) % 13 - 6).view_as(out).to(out.dtype)).sum() for out in outs)
    return [*outs, *torch.autograd.grad(loss, [t for t in leaves if t is not None])]


def assert_near_the_specification(
    backend: str, x: Tensor, weight: Tensor | None, turn: Tensor | None, **more: Tensor | None
) -> None:
    """Values and gradients within a share of the largest: roundings of the results add up in sums over all tokens."""
    found = run(backend, x, weight, turn, **more)
    wide = [None if t is None else t.double() for t in (x, weight, more.pop("bias", None))]
    turn = None if turn is None else turn.to(torch.complex128)
    truth = run("reference", wide[0], wide[1], turn, bias=wide[2], **more)
    share = 1e-2 if x.dtype == torch.bfloat16 else 1e-5
    for ours, theirs in zip(found, truth, strict=True):
        assert ours.shape == theirs.shape
        assert (ours.double() - theirs).abs().max() <= share * theirs.abs().max()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("norm", ["head", "heads", "none"])
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients_equal_the_specification(
    backend: str, dtype: torch.dtype, turned: bool, norm: str, biased: bool
) -> None:
    x, weight, turn = given(dtype, 32)
    weight = {"head": weight, "heads": weight * torch.linspace(0.5, 1.5, 4)[:, None], "none": None}[norm]
    bias = torch.linspace(-1, 1, 128).view(4, 32) if biased else None
    turn = turn if turned else None
    assert_near_the_specification(backend, x, weight, turn, bias=bias)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", [True, False])
def test_rows_come_in_cube_order_with_the_means_of_the_cubes(backend: str, dtype: torch.dtype, norm: bool) -> None:
    tiling = cube_tiling((5, 6, 7), residual_slab=True)
    x, weight, turn = given(dtype, 32, tiling.tokens)
    weight, turn = (weight, turn) if norm else (None, None)
    more = {"order": tiling.order, "starts": tiling.starts}
    plain = qk_norm_rope(x, weight, turn, EPS, backend=backend)
    out, pooled = qk_norm_rope(x, weight, turn, EPS, backend=backend, **more)
    assert torch.equal(out, plain[:, tiling.order])
    means = torch.stack([part.double().mean(1) for part in out.split(tiling.sizes.tolist(), dim=1)], dim=1)
    assert_rounded_once(pooled, means)
    assert_near_the_specification(backend, x, weight, turn, **more)


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_it_writes_where_it_is_told(backend: str) -> None:
    x, weight, turn = given(torch.float32)
    longer = torch.full((2, 9, 4, 8), 7.0)
    out = qk_norm_rope(x, weight, turn, EPS, out=longer[:, 2:7], backend=backend)
    assert out.data_ptr() == longer[:, 2:7].data_ptr()
    assert torch.equal(longer[:, 2:7], qk_norm_rope(x, weight, turn, EPS, backend=backend))
    assert (longer[:, :2] == 7).all() and (longer[:, 7:] == 7).all()
    with pytest.raises(ValueError, match="leave out None in training"):
        qk_norm_rope(x, weight.requires_grad_(), turn, EPS, out=longer[:, 2:7], backend=backend)


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("across", [True, False])
def test_the_backward_in_torch_is_the_derivative(turned: bool, across: bool) -> None:
    x, weight, turn = given(torch.float64)
    weight = (weight * torch.linspace(0.5, 1.5, 2)[:, None]).double() if across else weight
    small = x[:1, :2, :2].clone().requires_grad_(), weight.requires_grad_(), torch.ones(2, 8).double().requires_grad_()

    def function(a: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return qk_norm_rope(a, w, turn[:, :2] if turned else None, EPS, bias=b)

    assert torch.autograd.gradcheck(function, small)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_input_is_left_as_it_was(backend: str) -> None:
    x, weight, turn = given(torch.float32)
    before = x.clone()
    qk_norm_rope(x, weight, turn, EPS, backend=backend)
    assert torch.equal(x, before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rotation_keeps_lengths_and_weights_of_one_make_them_the_root_of_d(backend: str) -> None:
    x, _, turn = given(torch.float32)
    out = qk_norm_rope(x, torch.ones(8), turn, EPS, backend=backend)
    torch.testing.assert_close(out.norm(dim=-1), torch.full(x.shape[:-1], 8**0.5), atol=1e-4, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_not_dense_are_read_too(backend: str) -> None:
    x, weight, turn = given(torch.float32)
    awkward = x.transpose(1, 3).contiguous().transpose(1, 3)
    assert awkward.stride(-1) != 1
    assert torch.equal(
        qk_norm_rope(awkward, weight, turn, EPS, backend=backend), qk_norm_rope(x, weight, turn, EPS, backend=backend)
    )


def test_the_operator_keeps_torch_s_contract() -> None:
    x, weight, turn = given(torch.float32, 32)
    real = torch.view_as_real(turn)[:, :, 0]
    starts = torch.tensor([0, 2, 5], dtype=torch.int32)
    for leaf in (x.clone(), x.clone().requires_grad_()):
        w = weight.clone().requires_grad_(leaf.requires_grad)
        for order, cubes in ((None, None), (torch.arange(5).flip(0), starts)):
            torch.library.opcheck(
                torch.ops.sky4.qk_norm_rope.default, (leaf, w, real, torch.ones(4, 32), order, cubes, EPS)
            )


@pytest.mark.slow
def test_it_compiles_without_a_break() -> None:
    x, weight, turn = given(torch.float32, 32)

    def function(x: Tensor, weight: Tensor) -> Tensor:
        return qk_norm_rope(x, weight, turn, EPS, backend="cpu").sin()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    grads = []
    for way in (function, compiled):
        leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
        way(*leaves).sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_it_runs_on_the_meta_device(backend: str) -> None:
    x, weight, turn = (t.to("meta") for t in given(torch.float32))
    starts = torch.empty(3, dtype=torch.int32, device="meta")
    out, pooled = qk_norm_rope(x, weight, turn, EPS, starts=starts, backend=backend)
    assert out.shape == x.shape and pooled.shape == (2, 2, 4, 8)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(2, 5, 8)}, r"x \[B, N, H, d\], got \[2, 5, 8\]"),
        ({"weight": torch.ones(7)}, r"weight \[8\] or \[4, 8\], got \[7\]"),
        ({"turn": torch.ones(1, 3, 1, 4, dtype=torch.complex64)}, r"rotation \[1 or 2, 5, 1, 4\], got \[1, 3, 1, 4\]"),
        ({"turn": torch.ones(1, 5, 1, 4)}, "a complex rotation, got torch.float32"),
        ({"bias": torch.ones(8)}, r"bias \[4, 8\], got \[8\]"),
        ({"order": torch.arange(4)}, r"order int64 \[5\], got torch.int64 \[4\]"),
        ({"starts": torch.arange(4)}, r"starts int32 \[M \+ 1\], got torch.int64 \[4\]"),
        ({"out": torch.zeros(2, 4, 4, 8)}, r"out torch.float32 \[2, 5, 4, 8\], got torch.float32 \[2, 4, 4, 8\]"),
    ],
)
def test_what_does_not_fit_is_named(changed: dict, message: str) -> None:
    x, weight, turn = given(torch.float32)
    with pytest.raises(ValueError, match=message):
        qk_norm_rope(**{"x": x, "weight": weight, "turn": turn, "eps": EPS, **changed})
