"""The refiner's input in one pass (model.md section 7): checks, allocation, choice of backend, fake tensors.

B batch, C latent channels, T -> T2 latent frames, h, w -> H, W latent grid, K keyframes.
"""

import importlib
import logging
from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor

from sky4.ops.assemble_reference import latent_assemble_reference

Backend = Literal["auto", "native", "reference"]

_log = logging.getLogger(__name__)


def _load() -> ModuleType | None:
    try:
        return importlib.import_module("sky4._C")
    except ModuleNotFoundError as error:
        # Absent is one thing, broken another: a module that is there and does not load must not pass for a slow one.
        if error.name != "sky4._C":
            raise
        _log.warning("sky4._C is not built, so latent_assemble runs in plain torch; scripts/sky4 builds it")
        return None


_C = _load()


def latent_assemble(
    low: Tensor,
    noise: Tensor,
    *,
    keyframes: Tensor | None = None,
    keyframe_indices: Tensor | None = None,
    source: Tensor | None = None,
    source_mask: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Low-resolution latents brought to the noise's grid, with keyframes and source put in, beside the noise.

    low               [B, C, T, h, w]   float32 or bfloat16; the other latents have its dtype and device
    noise             [B, C, T2, H, W]  its grid is the target: any T2, H, W; for 16 -> 32 fps, T2 = 2T - 1
    keyframes         [B, C, K, H, W]   replace the interpolation in the frames that `keyframe_indices` names
    keyframe_indices  [K] int64         distinct, 0 <= index < T2; K may be 0
    source            [B, C, T2, H, W]  replaces both wherever `source_mask` is exactly 1
    source_mask       [B, 1, T2, H, W]  bool or the latents' dtype; 1 = the source's own latent is preserved
    returns           [B, 2C, T2, H, W] the noise in channels 0 to C - 1, the assembled condition in C to 2C - 1

    The interpolation is linear. Time aligns its corners (frame j lies at j (T - 1) / (T2 - 1), so of 2T - 1 frames the
    even ones are the low ones, exactly); space aligns cell edges and clamps at the border (`align_corners=False`).
    Arithmetic is in float32 with one rounding at the end; noise, keyframes and source are copied.

    `backend`: "native" is the kernel of sky4._C (CPU, no gradient), "reference" plain torch (any device, gradients);
    "auto" takes the kernel where it can. Both give the same bits.

    Raises TypeError for a wrong dtype or device, ValueError for a wrong shape or index, or a backend that cannot serve.
    """
    _check(low, noise, keyframes, keyframe_indices, source, source_mask)
    if backend not in get_args(Backend):
        raise ValueError(f"latent_assemble: backend is {backend!r}, expected one of {', '.join(get_args(Backend))}")
    given = [x for x in (low, noise, keyframes, source, source_mask) if x is not None]
    wants_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in given)
    obstacle = _obstacle(low.device, wants_gradient) if backend != "reference" else ""
    if backend == "native" and obstacle:
        raise ValueError(f"latent_assemble: the native backend cannot serve: {obstacle}; use backend='reference'")
    if backend == "reference" or obstacle:
        return latent_assemble_reference(low, noise, keyframes, keyframe_indices, source, source_mask)
    assembled: Tensor = _native(low, noise, keyframes, keyframe_indices, source, source_mask)
    return assembled


def _obstacle(device: torch.device, wants_gradient: bool) -> str:
    """Why the kernel cannot serve, or the empty string."""
    if device.type != "cpu":
        return f"it runs on the CPU and the latents are on {device.type}"
    if wants_gradient:
        return "it has no backward and an input requires a gradient"
    if _C is None:
        return "sky4._C is not built"
    return ""


def _rows(x: Tensor | None) -> Tensor | None:
    """The kernel reads rows with stride 1; anything else is copied here. DLPack carries no gradient."""
    if x is None:
        return None
    return x.detach() if x.stride(-1) == 1 or x.shape[-1] <= 1 else x.detach().contiguous()


@torch.library.custom_op("sky4::latent_assemble", mutates_args=(), device_types="cpu")
def _native(
    low: Tensor,
    noise: Tensor,
    keyframes: Tensor | None,
    keyframe_indices: Tensor | None,
    source: Tensor | None,
    source_mask: Tensor | None,
) -> Tensor:
    assert _C is not None  # latent_assemble asked before
    out = _empty(noise)
    inputs = [_rows(x) for x in (low, noise, keyframes)]
    _C.latent_assemble(*inputs, keyframe_indices, _rows(source), _rows(source_mask), out)
    return out


@_native.register_fake
def _(
    low: Tensor,
    noise: Tensor,
    keyframes: Tensor | None,
    keyframe_indices: Tensor | None,
    source: Tensor | None,
    source_mask: Tensor | None,
) -> Tensor:
    return _empty(noise)


def _empty(noise: Tensor) -> Tensor:
    return torch.empty(noise.shape[0], 2 * noise.shape[1], *noise.shape[2:], dtype=noise.dtype, device=noise.device)


def _check(
    low: Tensor,
    noise: Tensor,
    keyframes: Tensor | None,
    keyframe_indices: Tensor | None,
    source: Tensor | None,
    source_mask: Tensor | None,
) -> None:
    if low.dtype not in (torch.float32, torch.bfloat16):
        raise TypeError(f"latent_assemble: low has dtype {low.dtype}, expected torch.float32 or torch.bfloat16")
    for name, x in (("low", low), ("noise", noise)):
        if x.ndim != 5 or x.numel() == 0:
            raise ValueError(f"latent_assemble: {name} has shape {list(x.shape)}, expected five axes, none empty")
    grid = list(noise.shape[2:])
    B, C = low.shape[:2]
    _expect("noise", noise, [B, C, *grid], low)
    if (keyframes is None) != (keyframe_indices is None):
        raise ValueError("latent_assemble: keyframes and keyframe_indices come together, got one without the other")
    if keyframes is not None and keyframe_indices is not None:
        _check_indices(keyframe_indices, grid[0], low.device)
        _expect("keyframes", keyframes, [B, C, keyframe_indices.shape[0], *grid[1:]], low)
    if (source is None) != (source_mask is None):
        raise ValueError("latent_assemble: source and source_mask come together, got one without the other")
    if source is not None and source_mask is not None:
        _expect("source", source, [B, C, *grid], low)
        _expect("source_mask", source_mask, [B, 1, *grid], low, also=torch.bool)


def _expect(name: str, x: Tensor, shape: list[int], low: Tensor, also: torch.dtype | None = None) -> None:
    if x.dtype not in (low.dtype, also):
        expected = f"{low.dtype}, as low" if also is None else f"{low.dtype}, as low, or {also}"
        raise TypeError(f"latent_assemble: {name} has dtype {x.dtype}, expected {expected}")
    if x.device != low.device:
        raise TypeError(f"latent_assemble: {name} is on device {x.device}, expected {low.device}, as low")
    if list(x.shape) != shape:
        raise ValueError(f"latent_assemble: {name} has shape {list(x.shape)}, expected {shape}")


def _check_indices(indices: Tensor, frames: int, device: torch.device) -> None:
    name = "keyframe_indices"
    if indices.dtype != torch.int64:
        raise TypeError(f"latent_assemble: {name} has dtype {indices.dtype}, expected torch.int64")
    if indices.device not in (device, torch.device("cpu")):
        raise TypeError(f"latent_assemble: {name} is on device {indices.device}, expected {device} or cpu")
    if indices.ndim != 1:
        raise ValueError(f"latent_assemble: {name} has {indices.ndim} axes, expected 1")
    if torch.compiler.is_compiling() or indices.is_meta:
        return  # no values to look at here; the kernel looks at them when it runs
    seen: set[int] = set()
    for index in indices.tolist():
        if not 0 <= index < frames:
            raise ValueError(f"latent_assemble: {name} holds {index}, expected 0 to {frames - 1}")
        if index in seen:
            raise ValueError(f"latent_assemble: {name} holds {index} twice, expected distinct frames")
        seen.add(index)
