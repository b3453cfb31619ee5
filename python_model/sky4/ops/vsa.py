"""Video Sparse Attention (model.md, section 8): each cube of tokens reads the cubes that matter to it.

    coarse   dense attention between the cubes' means, its output given to all tokens of a cube
    select   for every query cube the share `density` of the key cubes whose means score highest
    fine     dense attention of a cube's tokens over the tokens of its selected cubes, and over all text
    out      coarse·gate_c + fine·gate_f; text queries read everything

Gradients flow through the coarse and the fine stage, not through the choice.

    B batch   N video tokens in cube order (cubes.py)   N_t text tokens   H heads   d channels per head
    M cubes   W words of 32 cubes
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sky4.ops import reference, vsa_reference
from sky4.ops.backend import OURS, dense_rows, native, runs_directly, select, stream
from sky4.ops.block_sparse_attention import block_sparse_attention
from sky4.ops.cubes import CubeTiling, on_device, words
from sky4.ops.joint_attention import joint_attention

Triple = tuple[Tensor, Tensor, Tensor]


def video_sparse_attention(
    video: Triple,
    text: Triple | None,
    tiling: CubeTiling,
    density: float,
    *,
    gates: tuple[Tensor, Tensor] | None = None,
    means: tuple[Tensor, Tensor] | None = None,
    text_mask: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """(video [B, N, H, d] in cube order, text [B, N_t, H, d] or None): self-attention of a video beside its prompt.

    video      queries, keys, values [B, N, H, d] in the cube order of `tiling`
    text       queries, keys, values [B, N_t, H, d] of all that is no video (prompt, references): always read, and
               itself reading everything; or None
    density    share of the cubes that each query cube reads: ceil(density·M) of M, in (0, 1]
    gates      gate_c, gate_f, broadcast over [B, N, H, d]; None: the fine stage alone (gate_c = 0, gate_f = 1)
    means      queries' and keys' means [B, M, H, d], where `qk_norm_rope(starts=...)` has made them already
    text_mask  [B, N_t] bool, True = read; None where all text counts
    backend    one of `sky4.ops.backend.NAMES`, for every stage; None takes what `set_backend` chose

    Raises ValueError naming the argument for shapes that do not fit, and for a backend that cannot serve.
    """
    q, k, v = video
    _check_triples(video, text, tiling)
    starts = on_device(tiling, q.device)[2]
    q_means, k_means = means or (cube_means(q, starts), cube_means(k, starts))
    selected = select_cubes(q_means, k_means, cubes_kept(density, tiling.cubes), backend=backend)
    out = block_sparse_attention(
        q, k, v, selected, starts, text=None if text is None else text[1:], text_mask=text_mask, backend=backend
    )
    if gates is not None:
        (coarse,) = joint_attention([q_means], [k_means], [cube_means(v, starts)], backend=backend)
        out = spread(coarse, starts, q.shape[1]) * gates[0] + out * gates[1]
    if text is None:
        return out, None
    text_q, text_k, text_v = text
    (text_out,) = joint_attention([text_q], [k, text_k], [v, text_v], [None, text_mask], backend=backend)
    return out, text_out


def cubes_kept(density: float, cubes: int) -> int:
    """ceil(density·cubes), at least 1. Raises ValueError unless 0 < density <= 1."""
    if not 0 < density <= 1:
        raise ValueError(f"density must be above 0 and at most 1, got {density}")
    return max(1, math.ceil(density * cubes - 1e-9))  # 0.1 · 30 is a little more than 3


def cube_means(x: Tensor, starts: Tensor) -> Tensor:
    """The mean of each cube's tokens of x [B, N, H, d], [B, M, H, d]; summed in float32, rounded once."""
    return reference.cube_means(x, starts)


def spread(x: Tensor, starts: Tensor, tokens: int) -> Tensor:
    """Each cube's row of x [B, M, H, d] for all its tokens, [B, N, H, d] with N = `tokens`."""
    return x.repeat_interleave(starts.diff(), dim=1, output_size=tokens)


def select_cubes(queries: Tensor, keys: Tensor, keep: int, *, backend: str | None = None) -> Tensor:
    """For every query cube the `keep` key cubes of the highest q·k as bits [B, H, M_q, W] int32 (`cubes.py`).

    queries [B, M_q, H, d], keys [B, M_k, H, d]: means. Exactly `keep` of them; of equal scores the lower index wins,
    NaN comes last. No gradient. Raises ValueError for shapes or a `keep` that do not fit.
    """
    batch, _, heads, channels = queries.shape
    if keys.dim() != 4 or (keys.shape[0], *keys.shape[2:]) != (batch, heads, channels):
        raise ValueError(f"select_cubes needs keys [{batch}, M, {heads}, {channels}], got {list(keys.shape)}")
    if not 1 <= keep <= keys.shape[1]:
        raise ValueError(f"select_cubes needs keep between 1 and {keys.shape[1]} (the key cubes), got {keep}")
    if select("select_cubes", queries, backend) not in OURS:
        return vsa_reference.select_cubes(queries, keys, keep)
    queries, keys = dense_rows(queries.detach()), dense_rows(keys.detach())
    if not runs_directly((queries, keys)):
        bits: Tensor = torch.ops.sky4.select_cubes(queries, keys, keep)
        return bits
    return _select(queries, keys, keep)


def _select(queries: Tensor, keys: Tensor, keep: int) -> Tensor:
    selected = _no_bits(queries, keys)
    native().select_cubes(dense_rows(queries), dense_rows(keys), keep, selected, stream=stream(queries))
    return selected


def _no_bits(queries: Tensor, keys: Tensor) -> Tensor:
    batch, query_cubes, heads, _ = queries.shape
    return queries.new_empty(batch, heads, query_cubes, words(keys.shape[1]), dtype=torch.int32)


# The operator: for torch.compile and fake tensors.

torch.library.define(
    "sky4::select_cubes", "(Tensor queries, Tensor keys, int keep) -> Tensor", tags=torch.Tag.pt2_compliant_tag
)
torch.library.impl("sky4::select_cubes", ("cpu", "cuda"), _select)
torch.library.register_fake("sky4::select_cubes", lambda queries, keys, keep: _no_bits(queries, keys))


def _check_triples(video: Triple, text: Triple | None, tiling: CubeTiling) -> None:
    batch, _, heads, channels = video[0].shape
    for x in video:
        if x.shape != (batch, tiling.tokens, heads, channels):
            raise ValueError(
                f"video_sparse_attention needs video [{batch}, {tiling.tokens}, {heads}, {channels}] for the grid "
                f"{tiling.grid}, got {list(x.shape)}"
            )
    for x in text or ():
        if x.dim() != 4 or x.shape != (batch, text[0].shape[1], heads, channels):  # type: ignore[index]
            raise ValueError(
                f"video_sparse_attention needs text [{batch}, N_t, {heads}, {channels}], got {list(x.shape)}"
            )
