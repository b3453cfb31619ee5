"""qk_norm_rope on CUDA against its definition in float64, under the rule of one rounding.

B batch, N tokens, H heads, d channels per head, M cubes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from torch import Tensor

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EPS = 1e-6


@dataclass
class Case:
    x: Tensor  # [B, N, H, d]
    options: dict[str, Tensor] = field(default_factory=dict)  # bias, weight, turn, order, starts

    def run(self, kernels, out: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        out = torch.empty_like(self.x, memory_format=torch.contiguous_format) if out is None else out
        pooled = None
        if "starts" in self.options:
            B, _, H, d = self.x.shape
            pooled = self.x.new_full((B, len(self.options["starts"]) - 1, H, d), 7)
        kernels.qk_norm_rope(self.x, out, pooled=pooled, eps=EPS, **self.options)
        return out, pooled

    def exact(self) -> Tensor:
        """The definition in float64."""
        y, get = self.x.double(), self.options.get
        if (bias := get("bias")) is not None:
            y = y + bias.double()
        if (weight := get("weight")) is not None:
            axes = (-1,) if weight.dim() == 1 else (-2, -1)
            y = y / (y.square().mean(axes, keepdim=True) + EPS).sqrt() * weight.double()
        if (turn := get("turn")) is not None:
            cosine, sine = turn.double()[:, :, None].unbind(-1)
            a, b = y.unflatten(-1, (-1, 2)).unbind(-1)
            y = torch.stack([a * cosine - b * sine, b * cosine + a * sine], -1).flatten(-2)
        return y if get("order") is None else y[:, get("order")]


def make(B, N, H, d, dtype, device, norm="head", bias=True, turn=True, order=False, cubes=(), factors=None) -> Case:
    generator = torch.Generator().manual_seed(B * N + H * d)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    options: dict[str, Tensor] = {}
    if bias:
        options["bias"] = normal(H, d).to(factors or dtype)
    if norm:
        options["weight"] = (normal(d) if norm == "head" else normal(H, d)).to(factors or dtype)
    if turn:
        angle = normal(B if turn == "batch" else 1, N, d // 2) * 3
        options["turn"] = torch.stack([angle.cos(), angle.sin()], -1)
    if order:
        options["order"] = torch.randperm(N, generator=generator)
    if cubes:
        assert sum(cubes) == N
        options["starts"] = torch.tensor([0, *torch.tensor(cubes).cumsum(0)], dtype=torch.int32)
    # A slice of a longer buffer, as queries come out of a projection to queries, keys and values.
    x = normal(B, N, 3, H, d).to(dtype).to(device)[:, :, 1]
    return Case(x, {name: value.to(device) for name, value in options.items()})


def assert_rounded_once(ours: Tensor, exact: Tensor) -> None:
    """At least 99.9 % are the nearest number of the dtype, the rest are a neighbour of it; float32 within 4e-6."""
    assert ours.isfinite().all()
    if ours.dtype == torch.float32:
        torch.testing.assert_close(ours.double(), exact, rtol=4e-6, atol=4e-6)
        return
    nearest = exact.to(ours.dtype)
    spacing = torch.finfo(ours.dtype).eps * exact.abs().clamp_min(torch.finfo(ours.dtype).tiny)
    # Sums that nearly cancel have a spacing below the error of the float32 that they were made in.
    assert ((ours.double() - exact).abs() <= spacing + 4e-6).all()
    assert (ours == nearest).double().mean() >= 0.999


def assert_means(pooled: Tensor, out: Tensor, starts: Tensor) -> None:
    edges = starts.tolist()
    for m, (first, last) in enumerate(pairwise(edges)):
        rows = out[:, first:last].double()
        exact = rows.mean(1) if last > first else torch.zeros_like(pooled[:, m]).double()
        torch.testing.assert_close(pooled[:, m].double(), exact, rtol=torch.finfo(pooled.dtype).eps, atol=1e-6)


SHAPES = [
    (2, 9, 3, 64),  # heads that leave lanes idle
    (1, 5, 4, 128),
    (1, 4, 2, 32),
    (1, 7, 2, 96),  # lanes without channels
    (1, 3, 2, 256),
    (1, 3, 40, 64),  # more tiles than warps in a block
    (1, 5, 3, 10),  # no whole 16 bytes: one element at a time
    (1, 2, 1, 2),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("norm", ["head", "row", ""])
def test_one_rounding_of_the_exact_value(kernels, shape, dtype, norm) -> None:
    case = make(*shape, dtype, kernels.device, norm)
    out, _ = case.run(kernels)
    assert_rounded_once(out, case.exact())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [64, 10])
@pytest.mark.parametrize("norm", ["head", "row"])
def test_cubes_are_gathered_and_their_rounded_rows_averaged(kernels, dtype, d, norm) -> None:
    case = make(2, 45, 3, d, dtype, kernels.device, norm, order=True, cubes=(16, 1, 0, 20, 8), turn="batch")
    out, pooled = case.run(kernels)
    assert_rounded_once(out, case.exact())
    assert_means(pooled, out, case.options["starts"])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reorder_alone_keeps_the_bits(kernels, dtype) -> None:
    case = make(1, 11, 2, 64, dtype, kernels.device, norm="", bias=False, turn=False, order=True)
    out, _ = case.run(kernels)
    assert torch.equal(out, case.x[:, case.options["order"]])


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_weights_and_bias_may_be_float32(kernels, dtype) -> None:
    case = make(1, 5, 3, 64, dtype, kernels.device, "row", factors=torch.float32)
    out, _ = case.run(kernels)
    assert_rounded_once(out, case.exact())


def test_only_its_rows_of_a_longer_buffer_are_written(kernels) -> None:
    case = make(2, 5, 2, 64, torch.bfloat16, kernels.device)
    buffer = torch.full((2, 9, 2, 64), 7.0, dtype=torch.bfloat16, device=kernels.device)
    case.run(kernels, buffer[:, 3:8])
    assert (buffer[:, :3] == 7).all() and (buffer[:, 8:] == 7).all()
    assert_rounded_once(buffer[:, 3:8], case.exact())


def test_rows_off_their_16_bytes_are_moved_singly(kernels) -> None:
    case = make(1, 4, 2, 64, torch.bfloat16, kernels.device, order=True, cubes=(3, 1))
    whole = torch.zeros(1, 4, 2, 67, dtype=torch.bfloat16, device=kernels.device)
    whole[..., 3:] = case.x
    case.x = whole[..., 3:]
    out, pooled = case.run(kernels)
    assert_rounded_once(out, case.exact())
    assert_means(pooled, out, case.options["starts"])


def test_no_tokens_are_no_work_but_their_cubes_are_zero(kernels) -> None:
    case = make(1, 0, 2, 64, torch.bfloat16, kernels.device)
    assert case.run(kernels)[0].shape == (1, 0, 2, 64)
    case.options["starts"] = torch.zeros(3, dtype=torch.int32, device=kernels.device)
    del case.options["turn"]
    _, pooled = case.run(kernels)
    assert (pooled == 0).all()


def test_a_product_of_two_tokens_knows_only_the_distance_between_them(kernels) -> None:
    """Rotations by times t and t + 5, some of them negative: q·k is the same wherever the pair stands."""
    d, times = 64, torch.arange(-6, 7, dtype=torch.float64)
    angle = times[:, None] / 100 ** (torch.arange(d // 2) / (d / 2))
    turn = torch.stack([angle.cos(), angle.sin()], -1)[None].float()
    case = make(1, 1, 2, d, torch.float32, kernels.device, bias=False, turn=False)
    case.x = case.x.expand(1, len(times), 2, d)
    case.options["turn"] = turn.to(kernels.device)
    q = case.run(kernels)[0].double()
    products = torch.einsum("bnhd,bnhd->bnh", q[:, :-5], q[:, 5:])
    torch.testing.assert_close(products, products[:, :1].expand_as(products), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_layer_of_a_480p_clip(cuda, dtype) -> None:
    cubes = (64,) * 500 + (16,) * 47 + (8,)
    case = make(1, sum(cubes), 24, 128, dtype, cuda.device, order=True, cubes=cubes)
    out, pooled = case.run(cuda)
    for first in range(0, out.shape[1], 8192):  # float64 copies, piece by piece
        order = case.options["order"][first : first + 8192]
        options = {**case.options, "order": torch.arange(len(order), device=cuda.device)}
        options["turn"] = options["turn"][:, order]
        assert_rounded_once(out[:, first : first + 8192], Case(case.x[:, order], options).exact())
    assert_means(pooled, out, case.options["starts"])


def test_offsets_beyond_two_to_the_31(cuda) -> None:
    tokens = 2**31 // (24 * 128) + 70
    x = torch.zeros(1, tokens, 24, 128, dtype=torch.bfloat16, device=cuda.device)
    x[:, -64:] = torch.randn(64, 24, 128, device=cuda.device)
    weight = torch.rand(128, device=cuda.device)
    out, _ = Case(x, {"weight": weight}).run(cuda)
    assert_rounded_once(out[:, -64:], Case(x[:, -64:], {"weight": weight}).exact())


def test_the_same_inputs_give_the_same_bits(cuda) -> None:
    case = make(2, 640, 24, 128, torch.bfloat16, cuda.device, "row", order=True, cubes=(64,) * 10)
    first = case.run(cuda)
    for _ in range(20):
        again = case.run(cuda)
        assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
