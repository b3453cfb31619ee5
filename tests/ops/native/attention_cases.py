"""What the tests of the native attention kernels share: float64 references, FlashAttention's rule, the levels.

B batch, L tokens, H heads, d channels per head.
"""

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sky4 import _C

ALL_LEVELS = ("emulated", "portable", "avx2", "avx512", "avx512_bf16")


@pytest.fixture(params=ALL_LEVELS)
def level(request) -> Iterator[str]:
    """Each instruction-set level in turn, where this processor runs it."""
    if request.param not in _C.isa_levels():
        pytest.skip(f"this processor does not run {request.param} (it runs {', '.join(_C.isa_levels())})")
    before = _C.isa()
    _C.set_isa(request.param)
    yield request.param
    _C.set_isa(before)


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Plain attention in the tensors' own dtype: out [B, L, H, d] and lse [B, H, L]; `keep` [B, H, L, L_k] or less.

    Rows without keys give zero and -inf.
    """
    s = torch.einsum("bqhd,bkhd->bhqk", q, k) * scale
    if keep is not None:
        s = s.masked_fill(~keep, float("-inf"))
    if s.shape[-1] == 0:
        return torch.zeros_like(q), q.new_full((q.shape[0], q.shape[2], q.shape[1]), float("-inf"))
    p = torch.nan_to_num(torch.softmax(s.float() if s.dtype == torch.bfloat16 else s, -1)).to(q.dtype)
    return torch.einsum("bhqk,bkhd->bqhd", p, v), torch.logsumexp(s.float() if q.dtype != torch.float64 else s, -1)


def torch_attention(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None, scale: float) -> Tensor:
    """What torch computes in the tensors' own dtype."""
    if k.shape[1] == 0 or keep is not None:
        return softmax_attention(q, k, v, keep, scale)[0]
    out = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), scale=scale)
    return out.transpose(1, 2)


def gradients(attend, inputs: Sequence[Tensor], grad_out: Tensor) -> list[Tensor]:
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    found = torch.autograd.grad(attend(*inputs), inputs, grad_out, allow_unused=True)
    return [torch.zeros_like(x) if grad is None else grad for x, grad in zip(inputs, found, strict=True)]


def assert_as_exact_as_torch(ours: Tensor, theirs: Tensor, exact: Tensor, what: str = "out") -> None:
    """FlashAttention's rule: at most twice torch's largest error in the same dtype, plus the last place's rounding.

    And plus what float32 sums differ by when taken in another order, which decides where all is float32 or torch
    happens to be exact (one key: its softmax gradient is zero by subtraction of equals).
    """
    if exact.numel() == 0:
        return
    ours, theirs, exact = ours.double(), theirs.double(), exact.double()
    rounding = 2 * ((exact.float() + 0.3 - 0.3).double() - exact.float().double()).abs().max().item()
    reordered = 4e-6 * max(1.0, exact.abs().max().item())
    allowed = 2 * (theirs - exact).abs().max().item() + rounding + reordered
    found = (ours - exact).abs().max().item()
    assert found <= allowed, f"{what}: error {found:.3e}, allowed {allowed:.3e}"
