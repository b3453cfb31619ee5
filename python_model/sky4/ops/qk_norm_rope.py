"""RMSNorm per head and rotary embedding of queries or keys in one step, with a backward that keeps only the input.

The same values as `reference.qk_norm_rope`, in fewer passes over memory: on the CPU these two steps written apart
take as long as the attention that follows them. The rotation is a complex product, because torch runs it several
times faster there than the same sums on strided halves.

    B batch   N tokens   H heads   d channels per head
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def qk_norm_rope(x: Tensor, weight: Tensor, turn: Tensor | None, eps: float) -> Tensor:
    """RMSNorm over d with `weight` [d], then (unless `turn` is None) the rotation of each interleaved pair.

    x: [B, N, H, d], queries or keys, any strides whose last is 1. turn: [1 or B, N, 1, d/2] complex of length 1.
    Computed in float32 (float64 for a float64 x); returns x's dtype. Raises ValueError for shapes that do not fit.
    """
    channels = x.shape[-1]
    if x.dim() != 4 or weight.shape != (channels,):
        raise ValueError(f"qk_norm_rope needs x [B, N, H, d] and weight [d], got {list(x.shape)}, {list(weight.shape)}")
    if turn is not None and (turn.shape[1:] != (x.shape[1], 1, channels // 2) or turn.shape[0] not in (1, x.shape[0])):
        raise ValueError(
            f"qk_norm_rope needs a rotation [1 or {x.shape[0]}, {x.shape[1]}, 1, {channels // 2}], "
            f"got {list(turn.shape)}"
        )
    out: Tensor = _QKNormRope.apply(x, weight, turn, eps)  # type: ignore[no-untyped-call]
    return out


class _QKNormRope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, turn: Tensor | None, eps: float) -> Tensor:
        y = _wide_copy(x)
        inverse = torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)  # [B, N, H, 1]
        ctx.save_for_backward(x, weight, turn, inverse)
        y = y.mul_(inverse).mul_(weight)
        return _turned(y, turn).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, out_grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight, turn, inverse = ctx.saved_tensors
        # The normalised input n = x·inverse; with g the gradient at its weighted value, as for any RMSNorm:
        # d_weight = sum(g·n), d_x = inverse·(g·weight - n·mean(g·weight·n)).
        grad = _turned(_wide_copy(out_grad), None if turn is None else turn.conj())
        n = _wide_copy(x).mul_(inverse)
        product = grad * n  # [B, N, H, d]
        weight_grad = product.flatten(0, 2).sum(0).to(weight.dtype)
        share = product @ weight.to(product.dtype) / x.shape[-1]  # [B, N, H]
        x_grad = grad.mul_(weight).sub_(n.mul_(share[..., None])).mul_(inverse)
        return x_grad.to(x.dtype), weight_grad, None, None


def _wide_copy(x: Tensor) -> Tensor:
    """x in at least float32, contiguous, and never x itself: what follows works in place."""
    return x.to(torch.promote_types(x.dtype, torch.float32), memory_format=torch.contiguous_format, copy=True)


def _turned(y: Tensor, turn: Tensor | None) -> Tensor:
    if turn is not None:
        torch.view_as_complex(y.view(*y.shape[:-1], -1, 2)).mul_(turn)
    return y
