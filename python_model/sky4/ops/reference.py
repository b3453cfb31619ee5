"""The specification of the operations in plain torch: what every faster backend must compute.

    B batch   L_q, L_k query and key lengths   H heads   d channels per head
"""

from __future__ import annotations

import torch
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
    """softmax(q·kT / sqrt(d))·v with q [B, L_q, H, d], k and v [B, L_k, H, d], key_mask [B, L_k] (True = attend).

    The softmax accumulates in float32 whatever the dtype (torch does so inside the kernel, without a float32 copy).
    A sample whose keys are all masked reads nothing: its output is zero.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [B, H, L, d]
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # [B, H, L_q, L_k]
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask[:, None, None, :], torch.finfo(scores.dtype).min)
    out = scores.softmax(-1).to(v.dtype) @ v
    if key_mask is not None:
        out = out * key_mask.any(-1)[:, None, None, None]
    return out.transpose(1, 2)
