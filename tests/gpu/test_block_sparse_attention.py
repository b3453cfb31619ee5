"""block_sparse_attention on CUDA against masked dense attention in float64, on the cases of the published VSA kernels.

B batch, H heads, d channels per head, M_q, M_k query and key cubes, N_t text tokens.
"""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.gpu.attention_oracle import (
    Expected,
    assert_flash_rule,
    assert_lse,
    expected,
    random_choice,
    starts_of,
    visible_tokens,
    words_of,
)
from tests.gpu.test_joint_attention import forward as dense_forward

DTYPES = [torch.bfloat16, torch.float16]
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(params=["single", "triple", "mma"], autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Hopper one query cube per block or three; the kernels of older GPUs, which any GPU can run."""
    if request.param == "mma":
        monkeypatch.setenv("SKY4_CUDA_PATH", "mma")
    else:
        monkeypatch.setenv("SKY4_SM90_SPARSE", request.param)


@dataclass
class Case:
    """chosen [B, H, M_q, M_k]; query_sizes, key_sizes: tokens of each cube; text_lengths of each sample."""

    q: Tensor
    k: Tensor
    v: Tensor
    chosen: Tensor
    query_sizes: list[int]
    key_sizes: list[int]
    text: tuple[Tensor, Tensor] | None = None
    text_lengths: list[int] | None = None

    @property
    def scale(self) -> float:
        return self.q.shape[-1] ** -0.5

    def options(self) -> dict[str, object]:
        if self.text is None:
            return {"scale": self.scale}
        lengths = None
        if self.text_lengths is not None:
            lengths = torch.tensor(self.text_lengths, dtype=torch.int32, device=self.q.device)
        return {"text_keys": self.text[0], "text_values": self.text[1], "text_lengths": lengths, "scale": self.scale}

    def inputs(self) -> list[Tensor]:
        device = self.q.device
        starts = [starts_of(self.query_sizes, device), starts_of(self.key_sizes, device)]
        return [self.q, self.k, self.v, *starts, words_of(self.chosen)]

    def forward(self, kernels) -> tuple[Tensor, Tensor]:
        B, N, H, _ = self.q.shape
        out = torch.full_like(self.q, 7.0, memory_format=torch.contiguous_format)
        lse = torch.full((B, H, N), 7.0, device=self.q.device)
        kernels.block_sparse_attention(*self.inputs(), out, lse=lse, **self.options())
        return out, lse

    def backward(self, kernels, out: Tensor, lse: Tensor, grad_out: Tensor) -> list[Tensor]:
        """Gradients of q, and of k and v with the text's after them."""
        gradients = [torch.full_like(x, 7.0) for x in (self.q, self.k, self.v, *(self.text or ()))]
        options = self.options()
        if self.text is not None:
            options |= {"grad_text_keys": gradients[3], "grad_text_values": gradients[4]}
        kernels.block_sparse_attention_backward(*self.inputs(), out, lse, grad_out, *gradients[:3], **options)
        dq, dk, dv, *text = gradients
        return [dq, torch.cat([dk, *text[:1]], 1), torch.cat([dv, *text[1:]], 1)]

    def expected(self, grad_out: Tensor | None = None) -> Expected:
        visible = visible_tokens(self.chosen, self.query_sizes, self.key_sizes)
        k, v = self.k, self.v
        if self.text is not None:
            B, N_t = self.text[0].shape[:2]
            counts = torch.tensor(self.text_lengths or [N_t] * B, device=self.q.device)
            heard = torch.arange(N_t, device=self.q.device) < counts[:, None, None, None]  # [B, 1, 1, N_t]
            visible = torch.cat([visible, heard.expand(*visible.shape[:3], N_t)], -1)
            k, v = torch.cat([k, self.text[0]], 1), torch.cat([v, self.text[1]], 1)
        return expected(self.q, k, v, self.scale, visible, grad_out)

    def check(self, kernels, gradients: bool = False) -> None:
        """Holds the kernel to FlashAttention's rule."""
        out, lse = self.forward(kernels)
        grad_out = torch.randn_like(out) if gradients else None
        right = self.expected(grad_out)
        assert_flash_rule(out, right.exact[0], right.by_torch[0])
        assert_lse(lse, right.lse)
        if grad_out is None:
            return
        ours = self.backward(kernels, out, lse, grad_out)
        for name, x, exact, by_torch in zip(("dq", "dk", "dv"), ours, right.exact[1:], right.by_torch[1:], strict=True):
            assert_flash_rule(x, exact, by_torch, name)


def make(device, query_sizes, key_sizes, chosen, H=4, d=128, dtype=torch.bfloat16, text=0, size=1.0) -> Case:
    generator = torch.Generator(device).manual_seed(3)
    B = chosen.shape[0]

    def tokens(L: int, place: int) -> Tensor:
        made = torch.randn(B, L, 3, H, d, device=device, generator=generator)
        return (made * size).to(dtype)[:, :, place]

    q, k, v = tokens(sum(query_sizes), 0), tokens(sum(key_sizes), 1), tokens(sum(key_sizes), 2)
    words = (tokens(text, 1), tokens(text, 2)) if text else None
    return Case(q, k, v, chosen, list(query_sizes), list(key_sizes), words)


def ragged(count: int, seed: int, smallest: int = 16) -> list[int]:
    return [random.Random(seed + i).randint(smallest, 64) for i in range(count)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [64, 128])
@pytest.mark.parametrize(
    ("M_q", "M_k", "keep"),
    [(16, 16, 2), (32, 32, 4), (53, 53, 6), (16, 32, 2), (32, 16, 4), (53, 32, 6), (16, 48, 2), (48, 16, 2)],
)
def test_the_published_cases_keep_the_rule(cuda, M_q, M_k, keep, d, dtype) -> None:
    chosen = random_choice(1, 16, M_q, M_k, keep, cuda.device)
    make(cuda.device, ragged(M_q, 1), ragged(M_k, 2), chosen, 16, d, dtype).check(cuda)


@pytest.mark.parametrize("M", [4, 8, 16])
@pytest.mark.parametrize("keep", [1, 2, 3])
def test_gradients_keep_the_rule(cuda, M, keep) -> None:
    chosen = random_choice(2, 4, M, M, keep, cuda.device)
    for d in (64, 128):
        make(cuda.device, ragged(M, 1, 32), ragged(M, 2, 32), chosen, d=d).check(cuda, gradients=True)


@pytest.mark.parametrize("d", [32, 96])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_other_head_dims_keep_the_rule(cuda, d, dtype) -> None:
    chosen = random_choice(1, 4, 7, 9, 3, cuda.device)
    make(cuda.device, ragged(7, 1, 1), ragged(9, 2, 1), chosen, d=d, dtype=dtype).check(cuda, gradients=True)


@pytest.mark.parametrize("size", [1, 15, 16, 17, 63, 64])
def test_cubes_of_every_size(cuda, size) -> None:
    chosen = random_choice(2, 4, 5, 40, 9, cuda.device)
    make(cuda.device, [size] * 5, [size, 64] * 20, chosen).check(cuda, gradients=True)


@pytest.mark.parametrize("text_lengths", [None, [77, 0], [1, 64]], ids=str)
@pytest.mark.parametrize("d", [64, 128])
def test_text_is_heard_by_every_cube(cuda, d, text_lengths) -> None:
    chosen = random_choice(2, 4, 6, 11, 3, cuda.device)
    case = make(cuda.device, ragged(6, 1), ragged(11, 2), chosen, d=d, text=77)
    case.text_lengths = text_lengths
    case.check(cuda, gradients=True)


def test_every_cube_selected_equals_dense_attention(cuda) -> None:
    chosen = torch.ones(1, 4, 9, 9, dtype=torch.bool, device=cuda.device)
    case = make(cuda.device, ragged(9, 1), ragged(9, 1), chosen, text=77)
    case.check(cuda, gradients=True)
    assert case.text is not None
    dense, _ = dense_forward(cuda, [case.q], [case.k, case.text[0]], [case.v, case.text[1]])
    right = case.expected()
    assert_flash_rule(case.forward(cuda)[0], dense.double(), right.by_torch[0])


@pytest.mark.parametrize("d", [64, 128])
def test_rows_of_very_different_counts_side_by_side(cuda, d) -> None:
    """None, one, all, in every order: what a block that serves several query cubes must keep apart."""
    M = 33
    chosen = torch.zeros(1, 4, 27, M, dtype=torch.bool, device=cuda.device)
    for cube in range(27):
        for neighbour, count in enumerate((cube // 9 % 3, cube // 3 % 3, cube % 3)):
            at = cube + neighbour - 1
            if 0 <= at < 27:
                chosen[:, :, at] = count == 2
                chosen[:, :, at, (at * 7) % M] = count >= 1
    make(cuda.device, ragged(27, 1, 1), ragged(M, 2, 1), chosen, d=d).check(cuda, gradients=True)


def test_random_bits_with_empty_rows(cuda) -> None:
    chosen = torch.rand(2, 4, 20, 70, generator=torch.Generator().manual_seed(5)) < 0.3
    chosen[:, ::2, ::3] = False
    case = make(cuda.device, ragged(20, 1, 1), ragged(70, 2, 1), chosen.to(cuda.device))
    out, lse = case.forward(cuda)
    assert (out[:, : case.query_sizes[0], ::2] == 0).all()
    assert torch.isneginf(lse[:, ::2, : case.query_sizes[0]]).all()
    case.check(cuda, gradients=True)


EMPTY_ROWS = """
import torch
from tests.gpu.conftest import Kernels
from tests.gpu.test_block_sparse_attention import make
from sky4 import _C
kernels = Kernels(_C, torch.device("cuda", 0))
for cubes in (1, 2, 3, 7):
    for d in (64, 128):
        case = make(kernels.device, [64] * cubes, [64] * 5, torch.zeros(1, 2, cubes, 5, dtype=torch.bool).cuda(), 2, d)
        out, lse = case.forward(kernels)
        gradients = case.backward(kernels, out, lse, torch.ones_like(out))
        assert (out == 0).all() and torch.isneginf(lse).all() and all((x == 0).all() for x in gradients)
print("zero")
"""


def test_nothing_selected_ends_with_zeros(cuda) -> None:
    """In a process of its own: a kernel that waits for cubes that never come would never end."""
    code = f"import sys; sys.path[:0] = [{str(ROOT / 'python_model')!r}, {str(ROOT)!r}]; {EMPTY_ROWS}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "zero"


@pytest.mark.parametrize("size", [1.0, 2.0, 4.0])
def test_large_scores_keep_relative_errors_small(cuda, size) -> None:
    """Scores 1, 4 and 16 times as large, as a published bug in the scaling of the backward's keys was found."""
    chosen = random_choice(1, 4, 8, 8, 3, cuda.device)
    case = make(cuda.device, [64] * 8, [64] * 8, chosen, size=size)
    out, lse = case.forward(cuda)
    grad_out = torch.randn_like(out)
    right = case.expected(grad_out)
    ours = [out, *case.backward(cuda, out, lse, grad_out)]
    for x, exact, limit in zip(ours, right.exact, (2e-2, 5e-2, 5e-2, 5e-2), strict=True):
        assert (x.double() - exact).norm() <= limit * exact.norm()
        assert 0.98 <= x.double().norm() / exact.norm() <= 1.02


def test_the_same_inputs_give_the_same_bits(cuda) -> None:
    chosen = random_choice(1, 8, 60, 60, 20, cuda.device)
    case = make(cuda.device, ragged(60, 1), ragged(60, 2), chosen, 8, text=77)
    out, lse = case.forward(cuda)
    grad_out = torch.randn_like(out)
    gradients = case.backward(cuda, out, lse, grad_out)
    for _ in range(100):
        again = case.forward(cuda)
        assert torch.equal(out, again[0]) and torch.equal(lse, again[1])
    for _ in range(20):
        assert all(map(torch.equal, gradients, case.backward(cuda, out, lse, grad_out)))


def test_key_offsets_beyond_two_to_the_31(cuda) -> None:
    """15 s of 1080p: 987,360 key tokens of 24 heads x 128, two query cubes that select the last cubes."""
    H, M_k = 24, 15_428
    shape = (1, M_k * 64, H, 128)
    k, v = (torch.randn(shape, device=cuda.device, dtype=torch.bfloat16) for _ in range(2))
    q = torch.randn(1, 128, H, 128, device=cuda.device, dtype=torch.bfloat16)
    chosen = torch.zeros(1, H, 2, M_k, dtype=torch.bool, device=cuda.device)
    chosen[..., -9::3] = True
    out, lse = Case(q, k, v, chosen, [64] * 2, [64] * M_k).forward(cuda)
    last = Case(q, k[:, -9 * 64 :], v[:, -9 * 64 :], chosen[..., -9:], [64] * 2, [64] * 9).expected()
    assert_flash_rule(out, last.exact[0], last.by_torch[0])
    assert_lse(lse, last.lse)


def test_query_offsets_beyond_two_to_the_31(cuda) -> None:
    H, M_q = 24, 11_000
    q = torch.randn(1, M_q * 64, H, 128, device=cuda.device, dtype=torch.bfloat16)
    k, v = (torch.randn(1, 5 * 64, H, 128, device=cuda.device, dtype=torch.bfloat16) for _ in range(2))
    chosen = random_choice(1, H, M_q, 5, 2, cuda.device)
    out, lse = Case(q, k, v, chosen, [64] * M_q, [64] * 5).forward(cuda)
    last = Case(q[:, -128:], k, v, chosen[:, :, -2:], [64] * 2, [64] * 5).expected()
    assert_flash_rule(out[:, -128:], last.exact[0], last.by_torch[0])
    assert_lse(lse[:, :, -128:], last.lse)
