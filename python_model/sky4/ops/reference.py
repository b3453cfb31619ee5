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
        return matmul_attention(q.to(wide), k.to(wide), v.to(wide), key_mask).to(q.dtype)


def matmul_attention(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
    """The same with both products in the inputs' own dtype, the softmax alone accumulating in float32.

    In bfloat16 the scores are rounded before the softmax, which costs about four times torch's error, noise beside
    that of training, and makes a training step on the CPU nearly twice as fast.
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # [B, H, L_q, L_k]
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask[:, None, None, :], torch.finfo(scores.dtype).min)
    out: Tensor = scores.softmax(-1).to(v.dtype) @ v
    if key_mask is not None:
        out = out * key_mask.any(-1)[:, None, None, None]
    return out


def qk_norm_rope(x: Tensor, weight: Tensor, turn: Tensor | None, eps: float) -> Tensor:
    """RMSNorm over the channels of each head, then the rotation of each interleaved pair; one rounding at the end.

    x [B, N, H, d], weight [d], turn [1 or B, N, 1, d/2] complex of length 1 or None for no rotation.
    """
    y = x.float() if x.dtype != torch.float64 else x
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps) * weight
    if turn is not None:
        pairs = torch.view_as_complex(y.view(*y.shape[:-1], -1, 2))  # [B, N, H, d/2]
        y = torch.view_as_real(pairs * turn).flatten(-2)
    return y.to(x.dtype)
