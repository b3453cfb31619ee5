"""The refiner's input in one pass (model.md section 7): checks, allocation, choice of backend, fake tensors.

B batch, C latent channels, T -> T2 latent frames, h, w -> H, W latent grid, K keyframes.
"""

import torch
from torch import Tensor

from sky4.ops.assemble_reference import latent_assemble_reference
from sky4.ops.backend import OURS, dense_rows, native, runs_directly, select, stream


def latent_assemble(
    low: Tensor,
    noise: Tensor,
    *,
    keyframes: Tensor | None = None,
    keyframe_indices: Tensor | None = None,
    source: Tensor | None = None,
    source_mask: Tensor | None = None,
    backend: str | None = None,
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

    backend: one of `sky4.ops.backend.NAMES`, None takes what `set_backend` chose. The kernels have no gradient; "torch"
    and "reference" are the same plain torch, on any device and with gradients. All give the same bits on the CPU.

    Raises TypeError for a wrong dtype or device, ValueError for a wrong shape or index, or a backend that cannot serve.
    """
    _check(low, noise, keyframes, keyframe_indices, source, source_mask)
    latents = [x for x in (low, noise, keyframes, source, source_mask) if x is not None]
    wants_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in latents)
    cannot = "it has no backward and an input requires a gradient" if wants_gradient else ""
    if select("latent_assemble", low, backend, cannot) not in OURS:
        return latent_assemble_reference(low, noise, keyframes, keyframe_indices, source, source_mask)
    if runs_directly(latents):
        return _run(low, noise, keyframes, keyframe_indices, source, source_mask)
    out: Tensor = torch.ops.sky4.latent_assemble(low, noise, keyframes, keyframe_indices, source, source_mask)
    return out


torch.library.define(
    "sky4::latent_assemble",
    "(Tensor low, Tensor noise, Tensor? keyframes, Tensor? keyframe_indices, Tensor? source, Tensor? source_mask) "
    "-> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


def _run(
    low: Tensor,
    noise: Tensor,
    keyframes: Tensor | None,
    keyframe_indices: Tensor | None,
    source: Tensor | None,
    source_mask: Tensor | None,
) -> Tensor:
    out = _empty(noise)
    low, noise = dense_rows(low), dense_rows(noise)
    keyframes, source, source_mask = (None if x is None else dense_rows(x) for x in (keyframes, source, source_mask))
    indices = None if keyframe_indices is None else keyframe_indices.cpu()
    native().latent_assemble(low, noise, keyframes, indices, source, source_mask, out, stream=stream(out))
    return out


torch.library.impl("sky4::latent_assemble", ("cpu", "cuda"), _run)
torch.library.register_fake("sky4::latent_assemble", lambda low, noise, *_: _empty(noise))


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
    for pair, one, other in (
        ("keyframes and keyframe_indices", keyframes, keyframe_indices),
        ("source and source_mask", source, source_mask),
    ):
        if (one is None) != (other is None):
            raise ValueError(f"latent_assemble: {pair} come together, got one without the other")
    if keyframes is not None and keyframe_indices is not None:
        _check_indices(keyframe_indices, grid[0], low.device)
        _expect("keyframes", keyframes, [B, C, keyframe_indices.shape[0], *grid[1:]], low)
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
    name = "latent_assemble: keyframe_indices"
    if indices.dtype != torch.int64:
        raise TypeError(f"{name} has dtype {indices.dtype}, expected torch.int64")
    if indices.device not in (device, torch.device("cpu")):
        raise TypeError(f"{name} is on device {indices.device}, expected {device} or cpu")
    if indices.ndim != 1:
        raise ValueError(f"{name} has {indices.ndim} axes, expected 1")
    if torch.compiler.is_compiling() or indices.is_meta:
        return  # no values to look at here; the kernel looks at them when it runs
    seen: set[int] = set()
    for index in indices.tolist():
        if not 0 <= index < frames:
            raise ValueError(f"{name} holds {index}, expected 0 to {frames - 1}")
        if index in seen:
            raise ValueError(f"{name} holds {index} twice, expected distinct frames")
        seen.add(index)
