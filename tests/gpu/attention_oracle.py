"""Attention in float64 and FlashAttention's rule of what a kernel may miss it by.

B batch, L_q, L_k query and key tokens, H heads, d channels per head, M_q, M_k cubes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float, visible: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """softmax(scale q·kT)·v and the scores' log-sum-exp, in the tensors' own dtype at every step.

    q [B, L_q, H, d], k, v [B, L_k, H, d], visible [B, H or 1, L_q or 1, L_k] (True = attend). Rows that see nothing
    give zero and -inf. In float64 this is what a kernel computes; in its own dtype it is what torch makes of it.
    """
    scores = torch.einsum("bqhd,bkhd->bhqk", q * scale, k)
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    lse = scores.double().logsumexp(-1)
    blind = torch.isneginf(lse)[..., None]
    weights = torch.softmax(scores.masked_fill(blind, 0.0), dim=-1).masked_fill(blind, 0.0)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v), lse


@dataclass(frozen=True)
class Expected:
    """What attention gives in float64, and in the kernel's dtype by torch: outputs and, with grad_out, gradients."""

    exact: Sequence[Tensor]  # out, then dq, dk, dv
    by_torch: Sequence[Tensor]
    lse: Tensor


def expected(
    q: Tensor, k: Tensor, v: Tensor, scale: float, visible: Tensor | None = None, grad_out: Tensor | None = None
) -> Expected:
    results = []
    for dtype in (torch.float64, q.dtype):
        inputs = [x.detach().to(dtype).requires_grad_(grad_out is not None) for x in (q, k, v)]
        out, lse = attention(*inputs, scale, visible)
        gradients = [] if grad_out is None else torch.autograd.grad(out, inputs, grad_out.to(dtype))
        results.append(([out.detach(), *gradients], lse.detach()))
    return Expected(results[0][0], results[1][0], results[0][1])


def assert_flash_rule(ours: Tensor, exact: Tensor, by_torch: Tensor, what: str = "out") -> None:
    """At most twice torch's own error in the same dtype, and a few roundings of numbers of this size."""
    assert ours.isfinite().all(), f"{what} is not finite everywhere"
    if exact.numel() == 0:
        return
    rounded = exact.to(ours.dtype)
    rounding = 2 * ((rounded + 0.3 - 0.3) - rounded).double().abs().max()
    error = (ours.double() - exact).abs().max()
    allowed = 2 * (by_torch.double() - exact).abs().max() + rounding
    assert error <= allowed, f"{what} is {error:.3g} off, expected at most {allowed:.3g}"


def assert_lse(ours: Tensor, exact: Tensor) -> None:
    """Natural logarithms to 2e-3 (the queries and keys are rounded as given, the sums are float32)."""
    assert torch.equal(torch.isneginf(ours), torch.isneginf(exact))
    seen = ~torch.isneginf(exact)
    torch.testing.assert_close(ours.double()[seen], exact[seen], rtol=1e-3, atol=2e-3)


def key_mask(lengths: Sequence[Sequence[int] | None], segments: Sequence[int], device: torch.device) -> Tensor:
    """[B, 1, 1, sum of segments]: which keys count, `lengths` being for each segment those of the batch items."""
    batch = next(len(x) for x in lengths if x is not None)
    parts = []
    for counts, length in zip(lengths, segments, strict=True):
        kept = torch.full((batch,), length) if counts is None else torch.tensor(counts)
        parts.append(torch.arange(length) < kept[:, None])
    return torch.cat(parts, 1)[:, None, None].to(device)


# ---------------------------------------------------------------------------------------------------------------------
# Cubes


def starts_of(sizes: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *torch.tensor(sizes, dtype=torch.int64).cumsum(0)], dtype=torch.int32, device=device)


def words_of(chosen: Tensor) -> Tensor:
    """chosen [B, H, M_q, M_k] bool -> the selection [B, H, M_q, ceil(M_k / 32)] int32."""
    padded = torch.nn.functional.pad(chosen, (0, -chosen.shape[-1] % 32)).unflatten(-1, (-1, 32)).long()
    words = (padded << torch.arange(32, device=chosen.device)).sum(-1)  # 0 .. 2^32 - 1
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32).contiguous()


def visible_tokens(chosen: Tensor, query_sizes: Sequence[int], key_sizes: Sequence[int]) -> Tensor:
    """chosen [B, H, M_q, M_k] -> [B, H, L_q, L_k]: which key tokens each query token sees."""
    rows = chosen.repeat_interleave(torch.tensor(query_sizes, device=chosen.device), 2)
    return rows.repeat_interleave(torch.tensor(key_sizes, device=chosen.device), 3)


def random_choice(B: int, H: int, M_q: int, M_k: int, keep: int, device: torch.device, seed: int = 0) -> Tensor:
    """[B, H, M_q, M_k] bool, exactly `keep` in each row."""
    scores = torch.rand(B, H, M_q, M_k, generator=torch.Generator().manual_seed(seed))
    chosen = torch.zeros(B, H, M_q, M_k, dtype=torch.bool)
    return chosen.scatter_(-1, scores.topk(keep, -1).indices, True).to(device)
