"""What Video Sparse Attention computes (model.md, section 8): plain torch on masked dense matrices.

B batch   N tokens in cube order   N_t text tokens   H heads   d channels per head   M cubes   (see cubes.py)
"""

from __future__ import annotations

import torch
from torch import Tensor

from sky4.ops import reference
from sky4.ops.cubes import bits_to_mask, mask_to_bits

SCORES_HELD = 2**26  # of `select_cubes`, at once


@torch.no_grad()
def select_cubes(queries: Tensor, keys: Tensor, keep: int) -> Tensor:
    """For every query cube the `keep` key cubes of the highest q·k as bits [B, H, M_q, W] int32 (`cubes.py`).

    queries [B, M_q, H, d], keys [B, M_k, H, d]. Scores are at least float32. Of equal scores the lower index wins, NaN
    comes last. Works through the query cubes in parts, so that no more than 64 million scores are held at once.
    """
    wide = torch.promote_types(queries.dtype, torch.float32)
    q, k = queries.transpose(1, 2).to(wide), keys.transpose(1, 2).to(wide)  # [B, H, M, d]
    rows = max(1, SCORES_HELD // max(1, q.shape[0] * q.shape[1] * k.shape[2]))
    return torch.cat([_best(part @ k.transpose(-1, -2), keep) for part in q.split(rows, dim=2)], dim=2)


def _best(scores: Tensor, keep: int) -> Tensor:
    nan = scores.isnan()
    order = scores.masked_fill(nan, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    order = order.gather(-1, nan.gather(-1, order).argsort(dim=-1, stable=True))
    chosen = torch.zeros_like(nan).scatter_(-1, order[..., :keep], True)
    return mask_to_bits(chosen)


def token_mask(selected: Tensor, query_starts: Tensor, key_starts: Tensor) -> Tensor:
    """The selection of cubes as a mask of tokens, [B, H, N, N_k] bool."""
    mask = bits_to_mask(selected, key_starts.shape[0] - 1)
    return mask.repeat_interleave(query_starts.diff(), dim=2).repeat_interleave(key_starts.diff(), dim=3)


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    selected: Tensor,
    query_starts: Tensor,
    key_starts: Tensor,
    text: tuple[Tensor, Tensor] | None = None,
    text_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(out [B, N, H, d], log-sum-exp [B, H, N]) of dense attention under `token_mask`; all text keys are read.

    In float32 (float64 for float64 inputs) with one rounding at the end. A query without keys gets zero and -inf.
    """
    mask = token_mask(selected, query_starts, key_starts)
    if text is not None:
        k, v = torch.cat([k, text[0]], dim=1), torch.cat([v, text[1]], dim=1)
        reads = mask.new_ones(text[0].shape[:2]) if text_mask is None else text_mask
        mask = torch.cat([mask, reads[:, None, None].expand(*mask.shape[:3], -1)], dim=3)
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = torch.einsum("bqhd,bkhd->bhqk", q.to(wide) * q.shape[-1] ** -0.5, k.to(wide))
    some = mask.any(-1, keepdim=True)
    weights = scores.masked_fill(~mask & some, -torch.inf).softmax(-1) * some
    lse = scores.detach().masked_fill(~mask, -torch.inf).logsumexp(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v.to(wide)).to(q.dtype), lse


def video_sparse_attention(
    video: tuple[Tensor, Tensor, Tensor],
    text: tuple[Tensor, Tensor, Tensor] | None,
    starts: Tensor,
    selected: Tensor,
    gates: tuple[Tensor, Tensor] | None = None,
    text_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """As `vsa.video_sparse_attention` with the selection given: (video [B, N, H, d], text [B, N_t, H, d] or None)."""
    q, k, v = video
    out, _ = block_sparse_attention(q, k, v, selected, starts, starts, None if text is None else text[1:], text_mask)
    if gates is not None:
        q_mean, k_mean, v_mean = (reference.cube_means(x, starts).transpose(1, 2) for x in video)
        coarse = reference.attention(q_mean, k_mean, v_mean).transpose(1, 2)  # [B, M, H, d]
        out = coarse.repeat_interleave(starts.diff(), dim=1) * gates[0] + out * gates[1]
    if text is None:
        return out, None
    text_q, text_k, text_v = text
    mask = None
    if text_mask is not None:
        mask = torch.cat([text_mask.new_ones(k.shape[:2]), text_mask], dim=1)
    all_k, all_v = (torch.cat(pair, dim=1).transpose(1, 2) for pair in ((k, text_k), (v, text_v)))
    return out, reference.attention(text_q.transpose(1, 2), all_k, all_v, mask).transpose(1, 2)
