"""Attention over several segments of tokens, the one door through which every attention of the model goes.

Segments are what a caller would otherwise concatenate: the media and the text tokens of a tower, or keys kept from
an earlier step. Every query attends to the keys of all segments; cross-attention is the case of one query segment
and one key segment of another length.

    B batch   L_i length of segment i   H heads   d channels per head   L sum of the segments' lengths
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from sky4.ops import reference
from sky4.ops.backend import OURS, dense_rows, native, runs_directly, select, stream

KERNEL_SEGMENTS = 4  # AttentionSegments::kMax of csrc/joint_attention.h

Segments = Sequence[Tensor]


@overload
def joint_attention(
    queries: Segments,
    keys: Segments,
    values: Segments,
    masks: Sequence[Tensor | None] | None = None,
    *,
    backend: str | None = None,
    return_lse: Literal[False] = False,
) -> tuple[Tensor, ...]: ...


@overload
def joint_attention(
    queries: Segments,
    keys: Segments,
    values: Segments,
    masks: Sequence[Tensor | None] | None = None,
    *,
    backend: str | None = None,
    return_lse: Literal[True],
) -> tuple[tuple[Tensor, ...], Tensor]: ...


def joint_attention(
    queries: Segments,
    keys: Segments,
    values: Segments,
    masks: Sequence[Tensor | None] | None = None,
    *,
    backend: str | None = None,
    return_lse: bool = False,
) -> tuple[Tensor, ...] | tuple[tuple[Tensor, ...], Tensor]:
    """softmax(Q·KT / sqrt(d))·V, where Q, K, V are the segments one after the other.

    queries: segments [B, L_i, H, d]; keys, values: segments [B, L_j, H, d], as many as each other.
    masks: one per key segment, [B, L_j] bool with True = attend, or None where all keys count.
    backend: one of `sky4.ops.backend.NAMES`; None takes what `set_backend` chose.
    Returns one output [B, L_i, H, d] per query segment; zero where a sample has no key at all. With `return_lse` also
    the log-sum-exp [B, H, L] float32 of each query's scaled scores (-inf without keys), through which no gradient goes.
    Raises ValueError for shapes that do not fit one another and for a backend that is unknown or cannot serve.
    """
    masks = (None,) * len(keys) if masks is None else masks
    _check(queries, keys, values, masks)
    chosen = select("joint_attention", queries[0], backend, _obstacle(queries, keys, values))
    if chosen in OURS:
        out, lse = _ours(queries, keys, values, masks, return_lse)
    else:
        out, lse = _in_torch(queries, keys, values, masks, return_lse, chosen)
    outputs = (out,) if len(queries) == 1 else out.split([x.shape[1] for x in queries], dim=1)
    return (outputs, lse) if return_lse else outputs


def join_masks(segments: Segments, masks: Sequence[Tensor | None]) -> Tensor | None:
    """The masks [B, L_i] of segments [B, L_i, ...] as one [B, L]; None where no segment has one."""
    if all(mask is None for mask in masks):
        return None
    parts = [
        torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        for x, mask in zip(segments, masks, strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def compacted(keys: Tensor, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys and values [B, L, H, d] in an order in which those that count come first, and how many these are.

    Attention does not ask for the order of its keys, so a mask [B, L] bool of any form becomes a length [B] int32.
    What counts keeps its order. No values are looked at on a GPU; on the CPU, where it costs nothing to look, a mask
    that has the form already leaves the keys where they lie, and one of which all count is no mask.
    """
    if mask is None:
        return keys, values, None
    looks = mask.device.type == "cpu" and runs_directly((mask,))
    if looks and bool(mask.all()):
        return keys, values, None
    lengths = mask.sum(1, dtype=torch.int32)
    if looks and bool((mask[:, 1:] <= mask[:, :-1]).all()):
        return keys, values, lengths
    order = mask.argsort(dim=1, descending=True, stable=True)[:, :, None, None].expand(keys.shape)
    return keys.gather(1, order), values.gather(1, order), lengths


def _obstacle(queries: Segments, keys: Segments, values: Segments) -> str:
    if len(queries) > KERNEL_SEGMENTS or len(keys) > KERNEL_SEGMENTS:
        return f"it takes {KERNEL_SEGMENTS} segments and got {max(len(queries), len(keys))}"
    dtype = queries[0].dtype
    for x in (*queries, *keys, *values):
        if x.dtype != dtype:
            return f"its tensors are of one dtype and these are {dtype} and {x.dtype}"
    return ""


def _ours(
    queries: Segments, keys: Segments, values: Segments, masks: Sequence[Tensor | None], want_lse: bool
) -> tuple[Tensor, Tensor]:
    """(out [B, L, H, d], lse [B, H, L], or out once more where nobody wants it)."""
    lengths: list[Tensor | None] = []
    if any(mask is not None for mask in masks):
        triples = [compacted(*triple) for triple in zip(keys, values, masks, strict=True)]
        keys, values, lengths = ([triple[i] for triple in triples] for i in range(3))  # type: ignore[assignment]
    scale = queries[0].shape[-1] ** -0.5
    if not runs_directly((*queries, *keys, *values)):
        given = [_full_length(k) if n is None else n for k, n in zip(keys, lengths, strict=False)]  # none at all: []
        out, lse = torch.ops.sky4.joint_attention(list(queries), list(keys), list(values), given, scale)
        return out, lse
    out, lse = _outputs(queries, want_lse)
    _forward(queries, keys, values, lengths, scale, out, lse if want_lse else None)
    return out, lse


def _full_length(keys: Tensor) -> Tensor:
    return torch.full(keys.shape[:1], keys.shape[1], dtype=torch.int32, device=keys.device)


def _outputs(queries: Segments, want_lse: bool = True) -> tuple[Tensor, Tensor]:
    first = queries[0]
    batch, length, heads, channels = first.shape
    for x in queries[1:]:
        length += x.shape[1]
    out = first.new_empty(batch, length, heads, channels)
    return out, first.new_empty(batch, heads, length, dtype=torch.float32) if want_lse else out


def _forward(
    queries: Segments,
    keys: Segments,
    values: Segments,
    lengths: Sequence[Tensor | None],
    scale: float,
    out: Tensor,
    lse: Tensor | None,
) -> None:
    q, k, v = ([dense_rows(x) for x in part] for part in (queries, keys, values))
    native().joint_attention(q, k, v, out, lengths=lengths, lse=lse, scale=scale, stream=stream(out))


# The operators: for autograd, torch.compile and fake tensors.

torch.library.define(
    "sky4::joint_attention",
    "(Tensor[] queries, Tensor[] keys, Tensor[] values, Tensor[] lengths, float scale) -> (Tensor out, Tensor lse)",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "sky4::joint_attention_backward",
    "(Tensor[] queries, Tensor[] keys, Tensor[] values, Tensor[] lengths, Tensor out, Tensor lse, Tensor grad_out, "
    "float scale) -> Tensor[]",
    tags=torch.Tag.pt2_compliant_tag,
)


def _run_forward(
    queries: list[Tensor], keys: list[Tensor], values: list[Tensor], lengths: list[Tensor], scale: float
) -> tuple[Tensor, Tensor]:
    out, lse = _outputs(queries)
    _forward(queries, keys, values, lengths, scale, out, lse)
    return out, lse


def _run_backward(
    queries: list[Tensor],
    keys: list[Tensor],
    values: list[Tensor],
    lengths: list[Tensor],
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    scale: float,
) -> list[Tensor]:
    q, k, v = ([dense_rows(x) for x in part] for part in (queries, keys, values))
    grads = _gradients(queries, keys, values)
    n, m = len(q), len(k)
    parts = grads[:n], grads[n : n + m], grads[n + m :]
    native().joint_attention_backward(
        *(q, k, v, out.detach(), lse, dense_rows(grad_out), *parts), lengths=lengths, scale=scale, stream=stream(out)
    )
    return grads


torch.library.impl("sky4::joint_attention", ("cpu", "cuda"), _run_forward)
torch.library.impl("sky4::joint_attention_backward", ("cpu", "cuda"), _run_backward)
torch.library.register_fake("sky4::joint_attention", lambda queries, *_: _outputs(queries))
torch.library.register_fake("sky4::joint_attention_backward", lambda q, k, v, *_: _gradients(q, k, v))


def _gradients(*parts: Segments) -> list[Tensor]:
    return [torch.empty(x.shape, dtype=x.dtype, device=x.device) for part in parts for x in part]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    queries, keys, values, lengths, ctx.scale = inputs
    ctx.counts = len(queries), len(keys), len(lengths)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*queries, *keys, *values, *lengths, *output)


def _backward(ctx: Any, grad_out: Tensor, _: Tensor | None) -> tuple[list[Any] | None, ...]:
    *saved, out, lse = ctx.saved_tensors
    n, m, given = ctx.counts
    q, k, v, lengths = saved[:n], saved[n : n + m], saved[n + m : n + 2 * m], saved[n + 2 * m :]
    grads = torch.ops.sky4.joint_attention_backward(q, k, v, lengths, out, lse, grad_out, ctx.scale)
    return grads[:n], grads[n : n + m], grads[n + m :], [None] * given, None


torch.library.register_autograd("sky4::joint_attention", _backward, setup_context=_keep)


# What torch has, and the specification.


def _in_torch(
    queries: Segments,
    keys: Segments,
    values: Segments,
    masks: Sequence[Tensor | None],
    want_lse: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    q, k, v = _heads_first(queries), _heads_first(keys), _heads_first(values)  # [B, H, L, d]
    key_mask = join_masks(keys, masks)
    attention = reference.attention if backend == "reference" else _torch_attention
    out = attention(q, k, v, key_mask).transpose(1, 2)
    return out, reference.log_sum_exp(q, k, key_mask) if want_lse else out


def _torch_attention(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    mask = None if key_mask is None else key_mask[:, None, None, :]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    if key_mask is not None:
        # Backends differ in what they return for a sample without keys (zero or nan).
        out = torch.where(key_mask.any(-1)[:, None, None, None], out, 0.0)
    return out


def _heads_first(segments: Segments) -> Tensor:
    """[B, L_i, H, d] each -> [B, H, L, d]: joining and reordering are one copy."""
    views = [x.transpose(1, 2) for x in segments]
    return views[0] if len(views) == 1 else torch.cat(views, dim=2)


def _check(queries: Segments, keys: Segments, values: Segments, masks: Sequence[Tensor | None]) -> None:
    if not queries or not keys or not len(keys) == len(values) == len(masks):
        raise ValueError(
            f"joint_attention needs at least one query segment and as many values and masks as keys, "
            f"got {len(queries)} queries, {len(keys)} keys, {len(values)} values, {len(masks)} masks"
        )
    if queries[0].dim() != 4:
        raise ValueError(f"joint_attention needs segments [B, L, H, d], got a first query {list(queries[0].shape)}")
    batch, _, heads, channels = queries[0].shape
    for x in (*queries, *keys, *values):
        if x.dim() != 4 or (x.shape[0], x.shape[2], x.shape[3]) != (batch, heads, channels):
            raise ValueError(
                f"joint_attention needs segments [{batch}, L, {heads}, {channels}] like its first query, "
                f"got {list(x.shape)}"
            )
    for k, v, mask in zip(keys, values, masks, strict=True):
        if k.shape != v.shape:
            raise ValueError(f"keys and values of a segment must agree, got {list(k.shape)} and {list(v.shape)}")
        if mask is not None and (mask.dtype != torch.bool or mask.shape != k.shape[:2]):
            raise ValueError(f"a key mask must be bool {list(k.shape[:2])}, got {mask.dtype} {list(mask.shape)}")
