"""The specification of the operations in plain torch: what every faster backend must compute.

B batch   L_q, L_k query and key lengths   N tokens   H heads   d channels per head (d/2 interleaved pairs)
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
    """softmax(q·kT / sqrt(d))·v with q [B, H, L_q, d], k and v [B, H, L_k, d], key_mask [B, L_k] (True = attend).

    Computed in float32 (float64 for float64 inputs) with one rounding at the end. A sample whose keys are all masked
    reads nothing: its output is zero.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    device = q.device.type
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
        scores = (q.to(wide) * q.shape[-1] ** -0.5) @ k.to(wide).transpose(-1, -2)  # [B, H, L_q, L_k]
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask[:, None, None, :], torch.finfo(wide).min)
        out: Tensor = scores.softmax(-1) @ v.to(wide)
    if key_mask is not None:
        out = out * key_mask.any(-1)[:, None, None, None]
    return out.to(q.dtype)


@torch.no_grad()
def log_sum_exp(q: Tensor, k: Tensor, key_mask: Tensor | None = None) -> Tensor:
    """log sum exp(q·kT / sqrt(d)) over the keys that count, [B, H, L_q], in at least float32; -inf without keys."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (q.to(wide) * q.shape[-1] ** -0.5) @ k.to(wide).transpose(-1, -2)  # [B, H, L_q, L_k]
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask[:, None, None, :], -torch.inf)
    out: Tensor = scores.logsumexp(-1)
    return out


def cube_means(x: Tensor, starts: Tensor) -> Tensor:
    """The mean of rows starts[c] .. starts[c + 1] - 1 of x [B, N, H, d] for each cube c, [B, M, H, d].

    Summed in float32 (float64 for float64 inputs), rounded once.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    sizes = starts.diff().expand(x.shape[0], -1).contiguous()
    means: Tensor = torch.segment_reduce(wide, "mean", lengths=sizes, axis=1, unsafe=True)
    return means.to(x.dtype)


def qk_norm_rope(
    x: Tensor, weight: Tensor | None, turn: Tensor | None, eps: float, bias: Tensor | None = None
) -> Tensor:
    """Bias, RMSNorm, then the rotation of each interleaved pair; one rounding at the end.

    x [B, N, H, d]; bias [H, d]; weight [d] for a norm over each head's channels, [H, d] for one over all heads
    together, None for no norm; turn [1 or B, N, 1, d/2] complex of length 1 or None for no rotation.
    """
    y = x.to(torch.promote_types(x.dtype, torch.float32))
    if bias is not None:
        y = y + bias
    if weight is not None:
        axes = (-1,) if weight.dim() == 1 else (-2, -1)
        y = y * torch.rsqrt(y.square().mean(axes, keepdim=True) + eps) * weight
    if turn is not None:
        pairs = torch.view_as_complex(y.reshape(*y.shape[:-1], -1, 2))  # [B, N, H, d/2]
        y = torch.view_as_real(pairs * turn).flatten(-2)
    return y.to(x.dtype)
