"""Attention by others, each under its own name: torch's SDPA by backend, FlexAttention, FlashAttention.

B = 1, H heads, N queries, L keys, d channels per head; here all tensors are [B, H, N or L, d].
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sky4.bench.timing import first_sentence

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]

SDPA = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
FLEX, FLASH_ATTN = "FlexAttention", "flash_attn"
NOT_COMPILED = "uncompiled it only shows what it computes; --compile compiles it for every case"


def sdpa(backend: str) -> Attention:
    """scaled_dot_product_attention held to one of its backends."""
    kind = SDPA[backend]

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel([kind]):
            return F.scaled_dot_product_attention(q, k, v)

    return call


def rivals(q: Tensor, k: Tensor, v: Tensor, compiled: bool) -> dict[str, Attention | str]:
    """All of them by name: the function, or the reason why it cannot run on these tensors.

    compiled: whether FlexAttention is worth its compilation, which happens here.
    """
    found = sdpa_rivals(q.device, q.dtype, q.shape[-1])
    found[FLEX] = compiled_flex(q, k, v) if compiled else NOT_COMPILED
    found[FLASH_ATTN] = _flash_attn(q.device)
    return found


def sdpa_rivals(device: torch.device, dtype: torch.dtype, channels: int) -> dict[str, Attention | str]:
    """Torch's SDPA by backend: the function, or the reason why it has none for these heads."""
    found: dict[str, Attention | str] = {}
    for backend in SDPA:
        call = sdpa(backend)
        found[f"torch SDPA {backend}"] = call if (why := _fault(call, device, dtype, channels)) is None else why
    return found


def _fault(call: Attention, device: torch.device, dtype: torch.dtype, channels: int) -> str | None:
    """What it says to a small case, or None where it serves."""
    x = torch.zeros(1, 1, 64, channels, device=device, dtype=dtype)
    try:
        call(x, x, x)
    except (RuntimeError, NotImplementedError) as error:
        said = first_sentence(error)
        return (
            f"torch has no such kernel for {device.type} in {dtype}"
            if said.startswith(("No available", "No viable"))
            else said
        )
    return None


def compiled_flex(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Attention | str:
    """FlexAttention compiled for just these tensors, or why it cannot be."""
    from torch.nn.attention.flex_attention import flex_attention

    torch._dynamo.reset()  # of one function only so many compiled forms are kept
    attend: Any = torch.compile(flex_attention, dynamic=False)
    try:
        attend(q, k, v, **options)
    except Exception as error:  # compilers fail in many ways, and none of them is ours
        return first_sentence(error)
    return lambda q, k, v: attend(q, k, v, **options)


def _flash_attn(device: torch.device) -> Attention | str:
    """FlashAttention 3 where installed, else 2; they take [B, N, H, d]."""
    if device.type != "cuda":
        return "it is for CUDA devices"
    for module in ("flash_attn_interface", "flash_attn"):
        if importlib.util.find_spec(module) is not None:
            function: Any = importlib.import_module(module).flash_attn_func
            return lambda q, k, v: function(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    return "neither flash_attn_interface nor flash_attn is installed"


def norm_rope(x: Tensor, weight: Tensor, turn: Tensor | None, eps: float) -> Tensor:
    """Preparation as written in plain torch: RMSNorm per head in float32, then the rotation; x [B, N, H, d]."""
    y = F.rms_norm(x.float(), x.shape[-1:], weight.float(), eps)
    if turn is not None:
        pairs = torch.view_as_complex(y.unflatten(-1, (-1, 2)))
        y = torch.view_as_real(pairs * turn).flatten(-2)
    return y.to(x.dtype)
