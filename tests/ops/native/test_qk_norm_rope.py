"""The native qk_norm_rope and its backward at every instruction-set level, against float64 written out here.

B batch, N tokens, H heads, d channels per head, M cubes.
"""

import itertools
import math
from dataclasses import dataclass, replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from sky4 import _C
from sky4.model.rope import rotation
from sky4.ops import reference

EPS = 1e-6
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(params=_C.isa_levels(), autouse=True)
def level(request):
    before = _C.isa()
    _C.set_isa(request.param)
    yield request.param
    _C.set_isa(before)


@dataclass(frozen=True)
class Case:
    x: Tensor  # [B, N, H, d]
    bias: Tensor | None = None  # [H, d]
    weight: Tensor | None = None  # [d] or [H, d]
    turn: Tensor | None = None  # [1 or B, N, d / 2, 2]
    order: Tensor | None = None  # [N]
    starts: Tensor | None = None  # [M + 1]

    def run(self, out: Tensor | None = None, pooled: Tensor | None = None) -> Tensor:
        out = torch.full_like(self.x, math.nan, memory_format=torch.contiguous_format) if out is None else out
        _C.qk_norm_rope(**vars(self), out=out, pooled=pooled, eps=EPS)
        return out

    def exact(self) -> Tensor:
        """The same in float64, with gradients, by pairs of channels one after the other."""
        x = self.x.double() + (0 if self.bias is None else self.bias.double())
        if self.weight is not None:
            axes = (-1,) if self.weight.dim() == 1 else (-2, -1)
            x = x / torch.sqrt(x.square().mean(axes, keepdim=True) + EPS) * self.weight.double()
        if self.turn is not None:
            cosine, sine = self.turn.double()[:, :, None].unbind(-1)  # [1 or B, N, 1, d / 2]
            a, b = x[..., 0::2], x[..., 1::2]
            x = torch.stack([a * cosine - b * sine, b * cosine + a * sine], -1).flatten(-2)
        return x if self.order is None else x[:, self.order]


def turns(batch: int, tokens: int, channels: int, generator: torch.Generator) -> Tensor:
    angle = torch.randn(batch, tokens, channels // 2, generator=generator) * 3
    return torch.stack([angle.cos(), angle.sin()], -1)


def make(
    shape=(2, 9, 3, 64), dtype=torch.float32, norm="head", bias=True, turn="each", order=True, starts=None, seed=0
) -> Case:
    generator = torch.Generator().manual_seed(seed)
    B, N, H, d = shape

    def normal(*size):
        return torch.randn(size, generator=generator)

    return Case(
        x=(normal(*shape) * 2).to(dtype),
        bias=normal(H, d).to(dtype) if bias else None,
        weight={"none": None, "head": normal(d), "all": normal(H, d).to(dtype)}[norm],
        turn=None if turn == "none" else turns(B if turn == "each" else 1, N, d, generator),
        order=torch.randperm(N, generator=generator) if order else None,
        starts=None if starts is None else torch.tensor(starts, dtype=torch.int32),
    )


def ulp(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance of neighbouring numbers of `dtype` at x (normal numbers)."""
    return torch.exp2(torch.floor(torch.log2(x.abs().clamp_min(1e-30)))) * torch.finfo(dtype).eps


def pair_length(x: Tensor) -> Tensor:
    """The length of each channel pair, twice: what the float32 errors before a rotation are in proportion to."""
    return x.unflatten(-1, (-1, 2)).norm(dim=-1, keepdim=True).expand(*x.shape[:-1], -1, 2).flatten(-2)


SHAPES = [
    (1, 1, 1, 2),
    (2, 9, 3, 64),
    (1, 5, 2, 32),
    (1, 70, 4, 96),
    (2, 33, 5, 128),
    (1, 3, 2, 34),
    (1, 4, 1, 6),
    (1, 2, 1, 200),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["none", "head", "all"])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_exact_value_rounded_once(shape, norm, dtype):
    case = make(shape, dtype, norm)
    exact = case.exact()
    error = (case.run().double() - exact).abs()
    # Float32's own errors (eight roundings of numbers as large as the pair), then half a unit of the result's rounding.
    before = 8 * 2.0**-24 * pair_length(exact)
    assert (error <= before + 0.5 * ulp(exact, dtype) * (1 + 1e-6)).all()


@pytest.mark.parametrize("shape", [(1, 40, 3, 64), (2, 33, 5, 128)])
def test_bfloat16_is_the_reference_s_but_for_one_element_in_a_thousand(shape):
    case = make(shape, torch.bfloat16, bias=False, order=False)
    wanted = reference.qk_norm_rope(case.x, case.weight, torch.view_as_complex(case.turn)[:, :, None], EPS)
    difference = (case.run().double() - wanted.double()).abs()
    assert (difference == 0).double().mean() >= 0.999
    assert (difference <= ulp(wanted.double(), torch.bfloat16) * 1.01).all()


@pytest.mark.parametrize("shape", [(1, 40, 3, 64), (2, 33, 5, 128)])
def test_float32_is_as_near_to_the_exact_value_as_the_reference(shape):
    case = make(shape, bias=False, order=False)
    wanted, exact = (
        reference.qk_norm_rope(case.x, case.weight, torch.view_as_complex(case.turn)[:, :, None], EPS),
        case.exact(),
    )
    # Units at the pair's length, because a rotation may cancel: the two sum their squares in another order.
    unit = ulp(pair_length(exact), torch.float32)
    ours, theirs = (case.run().double() - exact).abs() / unit, (wanted.double() - exact).abs() / unit
    assert ours.mean() <= 1.1 * theirs.mean() and ours.max() <= 2 * theirs.max()
    assert ((case.run() - wanted).double().abs() <= 3 * unit).double().mean() >= 0.999


def test_rows_without_a_turn_and_without_a_norm_are_moved_bit_by_bit():
    for dtype in DTYPES:
        case = make(dtype=dtype, norm="none", bias=False, turn="none")
        assert torch.equal(case.run(), case.x[:, case.order])


def test_one_turn_serves_all_samples():
    case = make((3, 8, 2, 64), turn="one")
    assert torch.equal(case.run(), replace(case, turn=case.turn.expand(3, -1, -1, -1).contiguous()).run())


def test_it_writes_into_a_slice_of_a_longer_buffer_and_nothing_beside_it():
    case = make((2, 9, 3, 64), torch.bfloat16)
    buffer = torch.full((2, 20, 3, 64), 7.0, dtype=torch.bfloat16)
    case.run(buffer[:, 4:13])
    assert torch.equal(buffer[:, 4:13], case.run())
    assert (buffer[:, :4] == 7).all() and (buffer[:, 13:] == 7).all()


def test_strided_inputs_are_read_as_they_lie():
    case = make((2, 9, 3, 64), torch.bfloat16)
    packed = torch.zeros(2, 9, 3, 3, 64, dtype=torch.bfloat16)  # q, k and v of one projection, k of them
    packed[:, :, 1] = case.x
    heads_first = case.x.transpose(1, 2).contiguous().transpose(1, 2)
    for x in (packed[:, :, 1], heads_first):
        assert torch.equal(replace(case, x=x).run(), case.run())


CUBES = [
    (13, [0, 4, 5, 13]),
    (130, [0, 64, 128, 130]),
    (9, [0, 3, 3, 9]),  # one cube is empty
    (11, [2, 5, 9]),  # rows before the first cube and after the last
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["head", "all"])
@pytest.mark.parametrize(("tokens", "starts"), CUBES)
def test_cubes_get_the_mean_of_their_rounded_rows(tokens, starts, norm, dtype):
    case = make((2, tokens, 3, 40), dtype, norm, starts=starts)
    pooled = torch.full((2, len(starts) - 1, 5, 40), 7.0, dtype=dtype)[:, :, 1:4]
    out = case.run(pooled=pooled)
    assert torch.equal(out, replace(case, starts=None).run())
    for cube, (first, last) in enumerate(itertools.pairwise(starts)):
        rows = out[:, first:last].double()
        mean = rows.mean(1) if last > first else torch.zeros(2, 3, 40, dtype=torch.float64)
        summing = 64 * 2.0**-24 * rows.abs().amax(1) if last > first else 0
        bound = summing + 0.5 * ulp(mean, dtype) * (1 + 1e-6)
        assert ((pooled[:, cube].double() - mean).abs() <= bound).all()


def prepared(times: Tensor, x: Tensor) -> Tensor:
    """x [N, d] at the given times, with y = x = 0, as one head of queries or keys."""
    positions = torch.stack([times, torch.zeros_like(times), torch.zeros_like(times)], -1)
    turn = torch.view_as_real(rotation(positions, (24, 20, 20), 10000.0)[:, :, 0]).contiguous()
    return Case(x[None, :, None], weight=torch.ones(64), turn=turn).run()[0, :, 0]


@pytest.mark.parametrize("scale", [Fraction(1), Fraction(21, 218)])  # a video's own steps, audio's under a 5 s video
def test_the_product_depends_on_the_difference_of_times_alone_even_below_zero(scale):
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 64, generator=generator)
    steps = torch.tensor([-7.0, -3.0, 0.0, 2.0, 40.0]) * float(scale)
    shift = 5.0 * float(scale)
    rows = len(steps)
    queries, keys = prepared(steps, q.expand(rows, -1)), prepared(steps - shift, k.expand(rows, -1))
    products = (queries * keys).sum(-1)
    torch.testing.assert_close(products, products[:1].expand(rows), rtol=0, atol=2e-4)
    other = (queries * prepared(steps - 2 * shift, k.expand(rows, -1))).sum(-1)
    assert (other - products).abs().min() > 1e-3


def test_not_a_number_stays_in_its_head():
    for dtype in DTYPES:
        case = make((1, 4, 3, 64), dtype, order=False)
        case.x[0, 1, 2, 5] = math.nan
        case.x[0, 3, 0, 0] = math.inf
        hurt = case.run().isnan()
        assert hurt[0, 1, 2].all() and hurt[0, 3, 0].any()
        hurt[0, 1, 2] = hurt[0, 3, 0] = False
        assert not hurt.any()


def test_no_tokens_are_no_work():
    case = make((2, 0, 3, 64))
    assert case.run().shape == (2, 0, 3, 64)


def gradients(case: Case, grad_out: Tensor, grad_pooled: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    grad_x = torch.full_like(case.x, math.nan, memory_format=torch.contiguous_format)
    grad_weight = None if case.weight is None else torch.full(case.weight.shape, math.nan)
    _C.qk_norm_rope_backward(
        **vars(case), grad_out=grad_out, grad_x=grad_x, grad_pooled=grad_pooled, grad_weight=grad_weight, eps=EPS
    )
    return grad_x, grad_weight


def exact_gradients(case: Case, grad_out: Tensor, grad_pooled: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    given = [case.x.double().requires_grad_()]
    if case.weight is not None:
        given.append(case.weight.double().requires_grad_())
    wide = replace(case, x=given[0], weight=given[1] if len(given) > 1 else None)
    out = wide.exact()
    total = (out * grad_out.double()).sum()
    if grad_pooled is not None:
        for cube, (first, last) in enumerate(itertools.pairwise(case.starts.tolist())):
            if last > first:
                total = total + (out[:, first:last].mean(1) * grad_pooled[:, cube].double()).sum()
    found = torch.autograd.grad(total, given)
    return found[0], found[1] if len(found) > 1 else None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["none", "head", "all"])
@pytest.mark.parametrize("shape", [(2, 9, 3, 64), (1, 70, 4, 96), (1, 3, 2, 34), (2, 150, 2, 32)])
def test_gradients_are_those_of_float64(shape, norm, dtype):
    case = make(shape, dtype, norm)
    grad_out = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    grad_x, grad_weight = gradients(case, grad_out)
    exact_x, exact_weight = exact_gradients(case, grad_out)
    half_unit = 2.0**-8 if dtype == torch.bfloat16 else 0
    torch.testing.assert_close(grad_x.double(), exact_x, rtol=half_unit, atol=1e-5)
    if exact_weight is not None:
        torch.testing.assert_close(grad_weight.double(), exact_weight, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("tokens", "starts"), CUBES)
def test_gradients_of_the_means_reach_their_rows(tokens, starts):
    case = make((2, tokens, 3, 40), starts=starts)
    generator = torch.Generator().manual_seed(1)
    grad_out = torch.randn(2, tokens, 3, 40, generator=generator)
    grad_pooled = torch.randn(2, len(starts) - 1, 3, 40, generator=generator)
    found = gradients(case, grad_out, grad_pooled)
    for mine, exact in zip(found, exact_gradients(case, grad_out, grad_pooled), strict=True):
        torch.testing.assert_close(mine.double(), exact, rtol=1e-5, atol=1e-4)


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    case = make((2, 700, 3, 64), torch.bfloat16, starts=list(range(0, 701, 50)))
    grad_out, grad_pooled = torch.randn(2, 700, 3, 64).bfloat16(), torch.randn(2, 14, 3, 64).bfloat16()

    def everything():
        pooled = torch.empty(2, 14, 3, 64, dtype=torch.bfloat16)
        return [case.run(pooled=pooled), pooled, *gradients(case, grad_out, grad_pooled)]

    usual = everything()
    monkeypatch.setenv("SKY4_THREADS", "1")
    assert all(torch.equal(a, b) for a, b in zip(usual, everything(), strict=True))


BAD = [
    ("x", lambda x: x.half(), TypeError, "x has dtype float16, expected float32 or bfloat16"),
    ("x", lambda x: x[0], ValueError, "x has 3 axes, expected 4"),
    ("x", lambda x: x.transpose(2, 3), ValueError, "x has stride 64 along its last axis, expected 1"),
    ("bias", lambda x: x[:2], ValueError, r"bias has shape \[2, 64\], expected \[3, 64\]"),
    ("weight", lambda x: x[:-1], ValueError, r"weight has shape \[63\], expected \[64\]"),
    ("turn", lambda x: x[:, :-1], ValueError, r"turn has shape \[2, 8, 32, 2\], expected \[2, 9, 32, 2\]"),
    ("turn", lambda x: x.double(), TypeError, "turn has dtype float64"),
    ("order", lambda x: x.int(), TypeError, "order has dtype int32, expected int64"),
    ("starts", lambda x: torch.tensor([0, 9], dtype=torch.int32), ValueError, "starts and .*pooled come together"),
]


@pytest.mark.parametrize(("name", "spoil", "error", "message"), BAD)
def test_bad_arguments_are_named(name, spoil, error, message):
    case = make()
    spoilt = replace(case, **{name: spoil(getattr(case, name))})
    with pytest.raises(error, match=f"qk_norm_rope: {message}"):
        spoilt.run(torch.empty_like(case.x))
    with pytest.raises(error, match=f"qk_norm_rope_backward: {message}"):
        _C.qk_norm_rope_backward(**vars(spoilt), grad_out=torch.zeros_like(case.x), grad_x=torch.zeros_like(case.x))


def test_the_backward_refuses_a_weight_gradient_without_a_weight():
    case = make(norm="none")
    zeros = torch.zeros_like(case.x)
    with pytest.raises(ValueError, match="grad_weight is given without weight"):
        _C.qk_norm_rope_backward(case.x, zeros, zeros.clone(), grad_weight=torch.zeros(64))
