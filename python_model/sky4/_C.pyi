# The types of the native module; its docstrings stand in csrc/bindings.cpp.
from collections.abc import Sequence
from typing import Any, Protocol

class DLPackTensor(Protocol):
    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...

def isa() -> str: ...
def isa_levels() -> list[str]: ...
def set_isa(name: str) -> None: ...
def cuda_archs() -> list[str]: ...
def latent_assemble(
    low: DLPackTensor,
    noise: DLPackTensor,
    keyframes: DLPackTensor | None,
    keyframe_indices: DLPackTensor | None,
    source: DLPackTensor | None,
    source_mask: DLPackTensor | None,
    out: DLPackTensor,
    stream: int = 0,
) -> None: ...
def qk_norm_rope(
    x: DLPackTensor,
    out: DLPackTensor,
    *,
    bias: DLPackTensor | None = None,
    weight: DLPackTensor | None = None,
    turn: DLPackTensor | None = None,
    order: DLPackTensor | None = None,
    starts: DLPackTensor | None = None,
    pooled: DLPackTensor | None = None,
    eps: float = 1e-6,
    stream: int = 0,
) -> None: ...
def qk_norm_rope_backward(
    x: DLPackTensor,
    grad_out: DLPackTensor,
    grad_x: DLPackTensor,
    *,
    bias: DLPackTensor | None = None,
    weight: DLPackTensor | None = None,
    turn: DLPackTensor | None = None,
    order: DLPackTensor | None = None,
    starts: DLPackTensor | None = None,
    grad_pooled: DLPackTensor | None = None,
    grad_weight: DLPackTensor | None = None,
    eps: float = 1e-6,
) -> None: ...
def select_cubes(
    queries: DLPackTensor, keys: DLPackTensor, keep: int, selected: DLPackTensor, *, stream: int = 0
) -> None: ...
def joint_attention(
    queries: Sequence[DLPackTensor],
    keys: Sequence[DLPackTensor],
    values: Sequence[DLPackTensor],
    out: DLPackTensor,
    *,
    lengths: Sequence[DLPackTensor | None] = ...,
    lse: DLPackTensor | None = None,
    scale: float,
    stream: int = 0,
) -> None: ...
def joint_attention_backward(
    queries: Sequence[DLPackTensor],
    keys: Sequence[DLPackTensor],
    values: Sequence[DLPackTensor],
    out: DLPackTensor,
    lse: DLPackTensor,
    grad_out: DLPackTensor,
    grad_queries: Sequence[DLPackTensor],
    grad_keys: Sequence[DLPackTensor],
    grad_values: Sequence[DLPackTensor],
    *,
    lengths: Sequence[DLPackTensor | None] = ...,
    scale: float,
    stream: int = 0,
) -> None: ...
def block_sparse_attention(
    queries: DLPackTensor,
    keys: DLPackTensor,
    values: DLPackTensor,
    query_starts: DLPackTensor,
    key_starts: DLPackTensor,
    selected: DLPackTensor,
    out: DLPackTensor,
    *,
    text_keys: DLPackTensor | None = None,
    text_values: DLPackTensor | None = None,
    text_lengths: DLPackTensor | None = None,
    lse: DLPackTensor | None = None,
    scale: float,
    stream: int = 0,
) -> None: ...
def block_sparse_attention_backward(
    queries: DLPackTensor,
    keys: DLPackTensor,
    values: DLPackTensor,
    query_starts: DLPackTensor,
    key_starts: DLPackTensor,
    selected: DLPackTensor,
    out: DLPackTensor,
    lse: DLPackTensor,
    grad_out: DLPackTensor,
    grad_queries: DLPackTensor,
    grad_keys: DLPackTensor,
    grad_values: DLPackTensor,
    *,
    text_keys: DLPackTensor | None = None,
    text_values: DLPackTensor | None = None,
    text_lengths: DLPackTensor | None = None,
    grad_text_keys: DLPackTensor | None = None,
    grad_text_values: DLPackTensor | None = None,
    scale: float,
    stream: int = 0,
) -> None: ...
