"""The fine stage of Video Sparse Attention: each cube's tokens read the tokens of the cubes selected for it, and text.

B batch   N query tokens in M_q cubes, N_k key tokens in M_k cubes, in cube order (cubes.py)   N_t text tokens
H heads   d channels per head   W words of 32 key cubes
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sky4.ops import vsa_reference
from sky4.ops.backend import dense_rows, native, runs_directly, select, stream
from sky4.ops.cubes import CUBE_TOKENS, bits_to_lists, words
from sky4.ops.joint_attention import compacted

GATHERED_ELEMENTS = 2**26  # of keys that torch's path copies together at once: 128 MiB in bfloat16


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    selected: Tensor,
    query_starts: Tensor,
    key_starts: Tensor | None = None,
    *,
    text: tuple[Tensor, Tensor] | None = None,
    text_mask: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """The fine stage: attention [B, N, H, d] of each query cube's tokens to its selected key cubes' and to all text.

    q [B, N, H, d]; k, v [B, N_k, H, d]; query_starts [M_q + 1], key_starts [M_k + 1] int32 (None: as the queries):
    cube c is rows starts[c] .. starts[c + 1] - 1, at most 64. selected [B, H, M_q, W] int32: bit k % 32 of word k / 32
    selects key cube k. text: keys and values [B, N_t, H, d]; text_mask [B, N_t] bool, True = read.
    Zero where a query reads nothing. Raises ValueError for shapes that do not fit and a backend that cannot serve.
    """
    key_starts = query_starts if key_starts is None else key_starts
    _check_sparse(q, k, v, selected, query_starts, key_starts, text, text_mask)
    chosen = select("block_sparse_attention", q, backend)
    if chosen == "reference":
        return vsa_reference.block_sparse_attention(q, k, v, selected, query_starts, key_starts, text, text_mask)[0]
    if chosen == "torch":
        return _gathered(q, k, v, selected, query_starts, key_starts, text, text_mask)
    text_k, text_v, text_lengths = (None, None, None) if text is None else compacted(*text, text_mask)
    tensors = (q, k, v, query_starts, key_starts, selected, text_k, text_v, text_lengths)
    scale = q.shape[-1] ** -0.5
    if not runs_directly([x for x in tensors if x is not None]):
        out: Tensor = torch.ops.sky4.block_sparse_attention(*tensors, scale)[0]
        return out
    out = q.new_empty(q.shape)
    _forward(*tensors, scale, out, None)
    return out


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_starts: Tensor,
    key_starts: Tensor,
    selected: Tensor,
    text_k: Tensor | None,
    text_v: Tensor | None,
    text_lengths: Tensor | None,
    scale: float,
    out: Tensor,
    lse: Tensor | None,
) -> None:
    native().block_sparse_attention(
        *(dense_rows(x) for x in (q, k, v)),
        *(query_starts, key_starts, selected.contiguous(), out),
        text_keys=None if text_k is None else dense_rows(text_k),
        text_values=None if text_v is None else dense_rows(text_v),
        text_lengths=text_lengths,
        lse=lse,
        scale=scale,
        stream=stream(q),
    )


# The operators: for autograd, torch.compile and fake tensors.

_ARGUMENTS = (
    "Tensor q, Tensor k, Tensor v, Tensor query_starts, Tensor key_starts, Tensor selected, "
    "Tensor? text_k, Tensor? text_v, Tensor? text_lengths, float scale"
)
torch.library.define(
    "sky4::block_sparse_attention", f"({_ARGUMENTS}) -> (Tensor out, Tensor lse)", tags=torch.Tag.pt2_compliant_tag
)
torch.library.define(
    "sky4::block_sparse_attention_backward",
    f"({_ARGUMENTS}, Tensor out, Tensor lse, Tensor grad_out) -> Tensor[]",
    tags=torch.Tag.pt2_compliant_tag,
)


def _run_forward(q: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    out, lse = _outputs(q)
    _forward(*(q, *rest, out, lse))
    return out, lse


def _run_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_starts: Tensor,
    key_starts: Tensor,
    selected: Tensor,
    text_k: Tensor | None,
    text_v: Tensor | None,
    text_lengths: Tensor | None,
    scale: float,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
) -> list[Tensor]:
    grads = _gradients(q, k, v, text_k, text_v)
    text_grads = (*grads[3:], None, None)
    native().block_sparse_attention_backward(
        *(dense_rows(x) for x in (q, k, v)),
        *(query_starts, key_starts, selected.contiguous(), out.detach(), lse, dense_rows(grad_out), *grads[:3]),
        text_keys=None if text_k is None else dense_rows(text_k),
        text_values=None if text_v is None else dense_rows(text_v),
        text_lengths=text_lengths,
        grad_text_keys=text_grads[0],
        grad_text_values=text_grads[1],
        scale=scale,
        stream=stream(q),
    )
    return grads


def _outputs(q: Tensor) -> tuple[Tensor, Tensor]:
    batch, tokens, heads, _ = q.shape
    return q.new_empty(q.shape), q.new_empty(batch, heads, tokens, dtype=torch.float32)


def _gradients(*inputs: Tensor | None) -> list[Tensor]:
    """Room for the gradients of those that are there."""
    return [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in inputs if x is not None]


torch.library.impl("sky4::block_sparse_attention", ("cpu", "cuda"), _run_forward)
torch.library.impl("sky4::block_sparse_attention_backward", ("cpu", "cuda"), _run_backward)
torch.library.register_fake("sky4::block_sparse_attention", lambda q, *_: _outputs(q))
torch.library.register_fake(
    "sky4::block_sparse_attention_backward", lambda q, k, v, *rest: _gradients(q, k, v, rest[3], rest[4])
)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, grad_out: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    *tensors, out, lse = ctx.saved_tensors
    grads = torch.ops.sky4.block_sparse_attention_backward(*tensors, ctx.scale, out, lse, grad_out)
    text_grads = grads[3:] or (None, None)
    return (*grads[:3], None, None, None, *text_grads, None, None)


torch.library.register_autograd("sky4::block_sparse_attention", _backward, setup_context=_keep)


# What torch has: the selected keys gathered, a few query cubes at a time, under scaled_dot_product_attention.


def _gathered(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    selected: Tensor,
    query_starts: Tensor,
    key_starts: Tensor,
    text: tuple[Tensor, Tensor] | None,
    text_mask: Tensor | None,
) -> Tensor:
    batch, _, heads, channels = q.shape
    query_rows, query_there = _slots(query_starts)
    key_rows, key_there = _slots(key_starts)
    lists, number = bits_to_lists(selected, key_starts.shape[0] - 1)
    most = max(1, int(number.max()))  # a list of nothing is a list of one cube that does not count
    used = torch.arange(most, device=q.device) < number[..., None]  # [B, H, M_q, K]
    lists = lists[..., :most].clamp_min(0)
    training = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, *(text or ())))
    at_once = max(1, GATHERED_ELEMENTS // (batch * heads * most * CUBE_TOKENS * channels))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [B, H, N, d]

    def part(q: Tensor, k: Tensor, v: Tensor, first: int, *text: Tensor) -> Tensor:
        cubes = slice(first, first + at_once)
        chosen = lists[:, :, cubes]
        rows = key_rows[chosen].flatten(3)  # [B, H, C, K·64]
        reads = (key_there[chosen] & used[:, :, cubes, :, None]).flatten(3)
        near_k, near_v = (_rows(x, rows) for x in (k, v))  # [B, H, C, K·64, d]
        if text:
            count = rows.shape[2]
            near_k, near_v = (
                torch.cat([near, x.transpose(1, 2)[:, :, None].expand(-1, -1, count, -1, -1)], dim=3)
                for near, x in zip((near_k, near_v), text, strict=True)
            )
            read = reads.new_ones(text[0].shape[:2]) if text_mask is None else text_mask
            reads = torch.cat([reads, read[:, None, None].expand(-1, heads, count, -1)], dim=3)
        out = F.scaled_dot_product_attention(
            q[:, :, query_rows[cubes]].flatten(0, 1),  # [B·H, C, 64, d]
            near_k.flatten(0, 1),
            near_v.flatten(0, 1),
            attn_mask=reads.flatten(0, 1)[:, :, None],
        ).unflatten(0, (batch, heads))
        return torch.where(reads.any(-1)[..., None, None], out, 0.0)[:, :, query_there[cubes]]  # [B, H, tokens, d]

    parts = []
    for first in range(0, query_rows.shape[0], at_once):
        arguments = (q, k, v, first, *(text or ()))
        parts.append(checkpoint(part, *arguments, use_reentrant=False) if training else part(*arguments))
    return torch.cat(parts, dim=2).transpose(1, 2)


def _slots(starts: Tensor) -> tuple[Tensor, Tensor]:
    """(row of each of a cube's 64 slots [M, 64] int64, whether there is a token in it [M, 64] bool)."""
    slot = torch.arange(CUBE_TOKENS, device=starts.device)
    there = slot < starts.diff()[:, None]
    return torch.where(there, starts[:-1, None] + slot, 0), there


def _rows(x: Tensor, rows: Tensor) -> Tensor:
    """x [B, H, N, d] at rows [B, H, ...], [B, H, ..., d]."""
    batch, heads = (
        torch.arange(size, device=x.device).view(shape)
        for size, shape in zip(x.shape[:2], ((-1, 1, 1, 1), (1, -1, 1, 1)), strict=True)
    )
    return x[batch, heads, rows]


def _check_sparse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    selected: Tensor,
    query_starts: Tensor,
    key_starts: Tensor,
    text: tuple[Tensor, Tensor] | None,
    text_mask: Tensor | None,
) -> None:
    def expect(name: str, x: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        if x.shape != shape or x.dtype != dtype:
            raise ValueError(
                f"block_sparse_attention needs {name} {dtype} {list(shape)}, got {x.dtype} {list(x.shape)}"
            )

    if q.dim() != 4 or k.dim() != 4:
        raise ValueError(f"block_sparse_attention needs q and k [B, N, H, d], got {list(q.shape)} and {list(k.shape)}")
    batch, _, heads, channels = q.shape
    expect("k", k, (batch, k.shape[1], heads, channels), q.dtype)
    expect("v", v, tuple(k.shape), q.dtype)
    for name, starts in (("query_starts", query_starts), ("key_starts", key_starts)):
        expect(name, starts, (max(1, starts.numel()),), torch.int32)
    shape = (batch, heads, query_starts.shape[0] - 1, words(key_starts.shape[0] - 1))
    expect("selected", selected, shape, torch.int32)
    if text is not None:
        expect("text keys", text[0], (batch, text[0].shape[1], heads, channels), q.dtype)
        expect("text values", text[1], tuple(text[0].shape), q.dtype)
    if text_mask is not None:
        if text is None:
            raise ValueError("block_sparse_attention has a text_mask and no text; leave it out")
        expect("text_mask", text_mask, tuple(text[0].shape[:2]), torch.bool)
