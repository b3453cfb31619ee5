"""Attention over several segments of tokens, the one door through which every attention of the model goes.

Segments are what a caller would otherwise concatenate: the media and the text tokens of a tower, or keys kept from
an earlier step. Every query attends to the keys of all segments; cross-attention is the case of one query segment
and one key segment of another length.

    B batch   L_i length of segment i   H heads   d channels per head   L sum of the segments' lengths
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from sky4.ops import reference

# auto: the best for the case; reference: the specification, float32 inside; matmul: its products in the inputs' dtype,
# for short training on the CPU; torch: scaled_dot_product_attention.
BACKENDS = ("auto", "reference", "matmul", "torch")

# Up to this many keys the matmul-softmax's score matrix is small enough that saving it is cheaper than the
# recomputation in the backward of torch's CPU attention (measured: the training step is 1.9 times faster).
CPU_TRAINING_KEYS = 1024

_log = logging.getLogger("sky4")
_wanted = "auto"
_announced: set[str] = set()


def joint_attention(
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    masks: Sequence[Tensor | None] | None = None,
    *,
    backend: str | None = None,
) -> tuple[Tensor, ...]:
    """softmax(Q·KT / sqrt(d))·V, where Q, K, V are the segments one after the other.

    queries: segments [B, L_i, H, d]; keys, values: segments [B, L_j, H, d], as many as each other.
    masks: one per key segment, [B, L_j] bool with True = attend, or None where all keys count.
    backend: one of `BACKENDS`; None takes what `set_backend` chose.
    Returns one output [B, L_i, H, d] per query segment; zero where a sample has no key at all.
    Raises ValueError for shapes that do not fit one another and for an unknown backend.
    """
    masks = [None] * len(keys) if masks is None else masks
    _check(queries, keys, values, masks)
    q, k, v = _heads_first(queries), _heads_first(keys), _heads_first(values)  # [B, H, L, d]
    key_mask = join_masks(keys, masks)
    out = _ATTENTION[select_backend(q, k, backend)](q, k, v, key_mask).transpose(1, 2)
    return (out,) if len(queries) == 1 else torch.split(out, [x.shape[1] for x in queries], dim=1)


def join_masks(segments: Sequence[Tensor], masks: Sequence[Tensor | None]) -> Tensor | None:
    """The masks [B, L_i] of segments [B, L_i, ...] as one [B, L]; None where no segment has one."""
    if all(mask is None for mask in masks):
        return None
    parts = [
        torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        for x, mask in zip(segments, masks, strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def select_backend(q: Tensor, k: Tensor, wanted: str | None = None) -> str:
    """The backend, any of `BACKENDS` but auto, that serves these queries and keys [B, H, L, d].

    Raises ValueError where `wanted` is asked for by name and is not there.
    """
    wanted = _wanted if wanted is None else _known(wanted)
    if wanted != "auto":
        return wanted
    training = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)
    chosen = "matmul" if training and q.device.type == "cpu" and k.shape[2] <= CPU_TRAINING_KEYS else "torch"
    if not torch.compiler.is_compiling() and chosen not in _announced:
        _announced.add(chosen)
        _log.info("attention backend: %s on %s (chosen automatically)", chosen, q.device.type)
    return chosen


def set_backend(name: str) -> None:
    """Choose the backend of all later calls that name none. Raises ValueError for an unknown name."""
    global _wanted
    _wanted = _known(name)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """`set_backend` for the length of a `with` block."""
    before = _wanted
    set_backend(name)
    try:
        yield
    finally:
        set_backend(before)


def _known(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"attention backend {name!r} is not available; choose one of {', '.join(BACKENDS)}")
    return name


def _torch_attention(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    mask = None if key_mask is None else key_mask[:, None, None, :]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    if key_mask is not None:
        # Backends differ in what they return for a sample without keys (zero or nan).
        out = torch.where(key_mask.any(-1)[:, None, None, None], out, 0.0)
    return out


_ATTENTION = {"reference": reference.attention, "matmul": reference.matmul_attention, "torch": _torch_attention}


def _heads_first(segments: Sequence[Tensor]) -> Tensor:
    """[B, L_i, H, d] each -> [B, H, L, d]: joining and reordering are one copy."""
    views = [x.transpose(1, 2) for x in segments]
    return views[0] if len(views) == 1 else torch.cat(views, dim=2)


def _check(
    queries: Sequence[Tensor], keys: Sequence[Tensor], values: Sequence[Tensor], masks: Sequence[Tensor | None]
) -> None:
    if not queries or not keys or not len(keys) == len(values) == len(masks):
        raise ValueError(
            f"joint_attention needs at least one query segment and as many values and masks as keys, "
            f"got {len(queries)} queries, {len(keys)} keys, {len(values)} values, {len(masks)} masks"
        )
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
