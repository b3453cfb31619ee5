"""sky4._C.block_sparse_attention and its backward against masked dense attention in float64.

B batch, N tokens in M cubes of at most 64, N_t text tokens, H heads, d channels per head.
"""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from sky4 import _C
from tests.ops.native.attention_cases import (
    assert_as_exact_as_torch,
    gradients,
    level,
    normal,
    softmax_attention,
    torch_attention,
)

__all__ = ["level"]  # a fixture
DTYPES = [torch.float32, torch.bfloat16]


def starts_of(sizes) -> Tensor:
    return torch.tensor([0, *torch.tensor(sizes).cumsum(0).tolist()], dtype=torch.int32)


def to_words(mask: Tensor) -> Tensor:
    """[B, H, M_q, M_k] bool -> [B, H, M_q, ceil(M_k / 32)] int32, bit k % 32 of word k / 32."""
    M_k = mask.shape[-1]
    padded = torch.nn.functional.pad(mask, (0, -M_k % 32)).unflatten(-1, (-1, 32)).to(torch.int64)
    words = (padded << torch.arange(32)).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32).contiguous()


def choose(B, H, M_q, M_k, keep, seed=0) -> Tensor:
    """Exactly `keep` random cubes of each row."""
    scores = torch.rand(B, H, M_q, M_k, generator=torch.Generator().manual_seed(seed))
    return torch.zeros(B, H, M_q, M_k, dtype=torch.bool).scatter_(-1, scores.topk(keep, -1).indices, True)


@dataclass(frozen=True)
class Case:
    q: Tensor
    k: Tensor
    v: Tensor
    query_sizes: list[int]
    key_sizes: list[int]
    mask: Tensor  # [B, H, M_q, M_k]
    text_k: Tensor | None = None
    text_v: Tensor | None = None
    text_lengths: Tensor | None = None
    scale: float = 0.125

    @property
    def cubes(self):
        return starts_of(self.query_sizes), starts_of(self.key_sizes), to_words(self.mask)

    @property
    def text(self):
        return {"text_keys": self.text_k, "text_values": self.text_v, "text_lengths": self.text_lengths}

    def native(self):
        out, lse = torch.full_like(self.q, 7), torch.full(self.q.permute(0, 2, 1, 3).shape[:3], 7.0)
        _C.block_sparse_attention(self.q, self.k, self.v, *self.cubes, out, **self.text, lse=lse, scale=self.scale)
        return out, lse

    def native_backward(self, out, lse, grad_out):
        grads = [torch.full_like(x, 7) for x in (self.q, self.k, self.v)]
        text = [None if x is None else torch.full_like(x, 7) for x in (self.text_k, self.text_v)]
        _C.block_sparse_attention_backward(
            self.q, self.k, self.v, *self.cubes, out, lse, grad_out, *grads, **self.text,
            grad_text_keys=text[0], grad_text_values=text[1], scale=self.scale,
        )  # fmt: skip
        return grads + [x for x in text if x is not None]

    def keep(self) -> Tensor:
        """[B, H, N, N_k + N_t]: which keys count."""
        rows = torch.repeat_interleave(torch.arange(len(self.query_sizes)), torch.tensor(self.query_sizes))
        columns = torch.repeat_interleave(torch.arange(len(self.key_sizes)), torch.tensor(self.key_sizes))
        video = self.mask[:, :, rows][..., columns]
        if self.text_k is None:
            return video
        N_t = self.text_k.shape[1]
        count = torch.full((len(self.q),), N_t) if self.text_lengths is None else self.text_lengths
        text = (torch.arange(N_t) < count[:, None])[:, None, None].expand(*video.shape[:3], -1)
        return torch.cat([video, text], -1)

    def inputs(self) -> list[Tensor]:
        return [self.q, self.k, self.v] + ([] if self.text_k is None else [self.text_k, self.text_v])

    def dense(self, attend):
        def run(q, k, v, text_k=None, text_v=None):
            if text_k is not None:
                k, v = torch.cat([k, text_k], 1), torch.cat([v, text_v], 1)
            return attend(q, k, v, self.keep(), self.scale)

        return run


def make(query_sizes, key_sizes, mask, d=64, text=0, dtype=torch.float32, times=1.0, **more) -> Case:
    B, H = mask.shape[:2]
    N, N_k = sum(query_sizes), sum(key_sizes)
    q, k, v = (normal(B, n, H, d, dtype=dtype, seed=i) * times for i, n in enumerate((N, N_k, N_k)))
    if text:
        more["text_k"], more["text_v"] = (normal(B, text, H, d, dtype=dtype, seed=5 + i) for i in range(2))
    return Case(q, k, v, list(query_sizes), list(key_sizes), mask, scale=d**-0.5, **more)


def check(case: Case):
    exact, exact_lse = case.dense(softmax_attention)(*(x.double() for x in case.inputs()))
    out, lse = case.native()
    assert_as_exact_as_torch(out, case.dense(torch_attention)(*case.inputs()), exact)
    torch.testing.assert_close(lse.double(), exact_lse, atol=3e-5, rtol=3e-5)
    grad_out = normal(*out.shape, dtype=out.dtype, seed=99)
    ours = case.native_backward(out, lse, grad_out)
    wanted = gradients(
        lambda *x: case.dense(softmax_attention)(*x)[0], [x.double() for x in case.inputs()], grad_out.double()
    )
    theirs = gradients(case.dense(torch_attention), case.inputs(), grad_out)
    for name, one, other, want in zip(("q", "k", "v", "text k", "text v"), ours, theirs, wanted, strict=False):
        assert_as_exact_as_torch(one, other, want, f"gradient of {name}")


def ragged(count, low=1, high=64, seed=0):
    return torch.randint(low, high + 1, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


# FastVideo's counts of cubes (queries, keys, kept), with their sizes between 16 and 64.
COUNTS = [(16, 16, 2), (32, 32, 4), (53, 53, 6), (16, 32, 2), (32, 16, 4), (16, 48, 2), (48, 16, 2)]


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_fastvideos_cases(counts, dtype):
    M_q, M_k, keep = counts
    check(make(ragged(M_q, 16), ragged(M_k, 16, seed=1), choose(1, 1, M_q, M_k, keep), dtype=dtype))


@pytest.mark.parametrize("d", [32, 64, 96, 128])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_level_on_ragged_cubes(level, d, dtype):
    sizes = [1, 15, 16, 17, 63, 64, 31, 33]
    lengths = torch.tensor([0, 65], dtype=torch.int32)
    case = make(sizes, sizes[::-1], choose(2, 2, 8, 8, 3), d=d, text=70, dtype=dtype, text_lengths=lengths)
    check(case)


def test_cubes_may_be_empty():
    check(make([64, 0, 3], [0, 10, 0, 64], choose(1, 2, 3, 4, 3), text=5))


@pytest.mark.parametrize("text", [0, 40])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cube_that_selects_nothing_sees_the_text_alone(text, dtype):
    mask = choose(1, 2, 5, 70, 4)
    mask[:, :, 2] = False
    mask[0, 1, 4] = False
    case = make(ragged(5), ragged(70, 1, 20, seed=2), mask, text=text, dtype=dtype)
    check(case)
    if text == 0:
        begin, end = starts_of(case.query_sizes)[2:4].tolist()
        out, lse = case.native()
        assert (out[:, begin:end] == 0).all() and (lse[:, :, begin:end] == float("-inf")).all()


def test_all_cubes_selected_is_dense_attention():
    case = make(ragged(6), ragged(9, seed=3), torch.ones(2, 2, 6, 9, dtype=torch.bool), text=50)
    out, lse = case.native()
    dense, dense_lse = torch.empty_like(out), torch.empty_like(lse)
    _C.joint_attention([case.q], [case.k, case.text_k], [case.v, case.text_v], dense, lse=dense_lse, scale=case.scale)
    torch.testing.assert_close(out, dense, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(lse, dense_lse, atol=2e-6, rtol=1e-5)


def test_counts_differ_from_row_to_row():
    mask = torch.rand(1, 3, 12, 40, generator=torch.Generator().manual_seed(4)) < 0.3
    mask[0, 0, 0], mask[0, 0, 1], mask[0, 0, 2] = False, True, False
    mask[0, 0, 2, 39] = True
    check(make([64] * 12, ragged(40, 1, 30), mask))


@pytest.mark.parametrize("times", [1.0, 4.0, 16.0])
def test_large_scores(times):
    check(make([64] * 8, [64] * 8, choose(1, 2, 8, 8, 3), times=times))


@pytest.mark.parametrize("dtype", DTYPES)
def test_unselected_cubes_are_never_read(dtype):
    mask = torch.zeros(1, 2, 4, 6, dtype=torch.bool)
    mask[..., 1], mask[..., 4] = True, True
    case = make([64] * 4, [64] * 6, mask, dtype=dtype)
    clean, _ = case.native()
    k, v = case.k.clone(), case.v.clone()
    k[:, 128:192], v[:, 320:] = float("nan"), float("inf")
    assert torch.equal(replace(case, k=k, v=v).native()[0], clean)


def test_the_same_bits_whatever_the_threads(monkeypatch):
    case = make(ragged(20), ragged(30, seed=1), choose(2, 2, 20, 30, 5), text=33)
    out, lse = case.native()
    grads = case.native_backward(out, lse, torch.ones_like(out))
    monkeypatch.setenv("SKY4_THREADS", "1")
    for one, other in zip([*case.native(), *case.native_backward(out, lse, torch.ones_like(out))],
                          [out, lse, *grads], strict=True):  # fmt: skip
        assert torch.equal(one, other)


def test_wrong_arguments_are_named():
    case = make([64, 64], [64, 64], choose(1, 2, 2, 2, 1), text=5)
    query_starts, key_starts, words = case.cubes
    out = torch.empty_like(case.q)

    def call(q=case.q, query_starts=query_starts, words=words, **more):
        _C.block_sparse_attention(q, case.k, case.v, query_starts, key_starts, words, out, scale=1.0, **more)

    with pytest.raises(TypeError, match="query_starts has dtype int64, expected int32"):
        call(query_starts=query_starts.long())
    with pytest.raises(ValueError, match=r"selected has shape \[1, 2, 2, 2\], expected \[1, 2, 2, 1\]"):
        call(words=torch.zeros(1, 2, 2, 2, dtype=torch.int32))
    with pytest.raises(ValueError, match="text_keys and text_values come together"):
        call(text_keys=case.text_k)
    with pytest.raises(ValueError, match="text_lengths comes with text_keys"):
        call(text_lengths=torch.zeros(1, dtype=torch.int32))
    with pytest.raises(TypeError, match="keys has dtype float32, expected bfloat16"):
        call(q=case.q.bfloat16())
