"""Our side of every case, through the public operations: the only file of this room that knows how they are called.

B = 1, H heads, N tokens, d channels per head, M cubes, W words of 32 cubes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sky4.errors import RequestError
from sky4.ops import backend as backends
from sky4.ops.backend import use_backend
from sky4.ops.block_sparse_attention import block_sparse_attention
from sky4.ops.cubes import CubeTiling, bits_to_mask, cube_tiling, mask_to_bits
from sky4.ops.joint_attention import joint_attention
from sky4.ops.latent_assemble import latent_assemble
from sky4.ops.qk_norm_rope import qk_norm_rope
from sky4.ops.vsa import cube_means, select_cubes, video_sparse_attention

__all__ = ["bits_to_mask", "cube_means", "cube_tiling", "mask_to_bits", "use_backend"]

Triple = tuple[Tensor, Tensor, Tensor]


def attention(q: list[Tensor], k: list[Tensor], v: list[Tensor], backend: str) -> tuple[Tensor, ...]:
    """Segments [B, N, H, d] -> one output per query segment."""
    return joint_attention(q, k, v, backend=backend)


def prep(x: Tensor, weight: Tensor, turn: Tensor | None, eps: float, backend: str) -> Tensor:
    """Norm per head and rotation of queries or keys [B, N, H, d]."""
    return qk_norm_rope(x, weight, turn, eps, backend=backend)


def prepared_attention(
    q: list[Tensor],
    k: list[Tensor],
    v: list[Tensor],
    weight: Tensor,
    turns: list[Tensor | None],
    eps: float,
    backend: str,
) -> tuple[Tensor, ...]:
    """`prep` of every segment, then `attention`."""
    ready_q, ready_k = (
        [prep(x, weight, turn, eps, backend) for x, turn in zip(part, turns, strict=True)] for part in (q, k)
    )
    return attention(ready_q, ready_k, v, backend)


def block_sparse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    selected: Tensor,
    starts: Tensor,
    text: tuple[Tensor, Tensor] | None,
    backend: str,
) -> Tensor:
    """The fine stage [B, N, H, d] on tokens in cube order; `selected` [B, H, M, W], `starts` [M + 1]."""
    return block_sparse_attention(q, k, v, selected, starts, text=text, backend=backend)


def sparse(
    video: Triple,
    text: Triple | None,
    tiling: CubeTiling,
    density: float,
    gates: tuple[Tensor, Tensor],
    backend: str,
) -> tuple[Tensor, Tensor | None]:
    """The whole operation on tokens in cube order: means, choice, coarse and fine stage, gates, and the text's rows."""
    return video_sparse_attention(video, text, tiling, density, gates=gates, backend=backend)


def select(q: Tensor, k: Tensor, keep: int, backend: str) -> Tensor:
    """The `keep` best key cubes of every query cube [B, M, H, d] as bits [B, H, M, W]."""
    return select_cubes(q, k, keep, backend=backend)


def assemble(
    low: Tensor, noise: Tensor, keyframes: Tensor, indices: Tensor, source: Tensor, keep_mask: Tensor, backend: str
) -> Tensor:
    """The refiner's input [1, 2C, T2, H, W]."""
    return latent_assemble(
        low,
        noise,
        keyframes=keyframes,
        keyframe_indices=indices,
        source=source,
        source_mask=keep_mask,
        backend=backend,
    )


def backend_of(operation: str, x: Tensor, wanted: str) -> str:
    """The backend that serves an operation (a key of `backend.KERNELS`) on tensors like x. ValueError where none does.

    Without gradients: what is measured for itself.
    """
    with torch.no_grad():
        return backends.select(operation, x, wanted)


def available_backends() -> list[str]:
    """All that are there, by name."""
    return [name for name, missing in backends.available().items() if not missing]


def check_backend(flag: str, name: str) -> None:
    """RequestError for an attention backend that is unknown or not there."""
    if fault := backends.unavailable(name):
        raise RequestError(f"{flag} {name} is not available: {fault}")
