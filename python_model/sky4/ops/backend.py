"""Which implementation computes each operation: chosen here, in one place, for all of them.

cuda       our CUDA kernels
cpu        our CPU kernels
torch      what torch has, such as scaled_dot_product_attention
reference  the specification in plain torch, in float32 inside
auto       our kernels where they can serve, torch elsewhere; the choice is logged once
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

NAMES = ("auto", "cuda", "cpu", "torch", "reference")
OURS = ("cuda", "cpu")

OLDEST_GPU = (8, 0)  # compute capability: the kernels need its asynchronous copies and its bfloat16 products

_log = logging.getLogger("sky4")
_wanted = "auto"
_announced: set[str] = set()


@dataclass(frozen=True)
class Kernel:
    """What our kernels of one operation take."""

    cpu: tuple[torch.dtype, ...]
    cuda: tuple[torch.dtype, ...]
    channels: tuple[int, ...] = ()  # of the last axis; empty: any
    announced: str = ""  # the words under which an automatic choice is logged; empty: it is not


_HEADS = (32, 64, 96, 128)
_WIDE, _NARROW, _HALF = torch.float32, torch.bfloat16, torch.float16
KERNELS = {
    "joint_attention": Kernel((_WIDE, _NARROW), (_NARROW, _HALF), _HEADS, "attention"),
    "block_sparse_attention": Kernel((_WIDE, _NARROW), (_NARROW, _HALF), _HEADS, "sparse attention"),
    "select_cubes": Kernel((_WIDE, _NARROW), (_WIDE, _NARROW, _HALF)),
    "qk_norm_rope": Kernel((_WIDE, _NARROW), (_WIDE, _NARROW, _HALF)),
    "latent_assemble": Kernel((_WIDE, _NARROW), (_WIDE, _NARROW)),
}


def _load() -> ModuleType | None:
    try:
        return importlib.import_module("sky4._C")
    except ModuleNotFoundError as error:
        # Absent is one thing, broken another: a module that is there and does not load must not pass for a slow one.
        if error.name != "sky4._C":
            raise
        return None


_C = _load()
CUDA_ARCHS: tuple[str, ...] = () if _C is None else tuple(_C.cuda_archs())


def native() -> ModuleType:
    """sky4._C. Whoever calls has asked `select` before."""
    assert _C is not None
    return _C


def select(operation: str, x: Tensor, wanted: str | None = None, cannot: str = "") -> str:
    """The backend, any of `NAMES` but auto, that computes `operation` (a key of `KERNELS`) on tensors like x.

    wanted: a backend's name; None takes what `set_backend` chose.
    cannot: why our kernels cannot serve this very call, whatever x; the empty string where they can.
    Raises ValueError, with the reason and the remedy, where `wanted` is unknown, not there or cannot serve.
    """
    wanted = _wanted if wanted is None else _known(wanted)
    if wanted not in ("auto", *OURS):
        return wanted
    name = wanted if wanted in OURS else x.device.type
    obstacle = _obstacle(operation, name, x) or cannot
    if wanted != "auto":
        if obstacle:
            raise ValueError(f"{operation}: backend {wanted} cannot serve: {obstacle}; choose auto or torch")
        return wanted
    chosen = "torch" if obstacle else name
    if KERNELS[operation].announced and not torch.compiler.is_compiling():
        _announce(KERNELS[operation].announced, chosen, x.device.type, obstacle)
    return chosen


def _obstacle(operation: str, name: str, x: Tensor) -> str:
    """Why the kernels `name` cannot compute `operation` on tensors like x, or the empty string."""
    kernel, device = KERNELS[operation], x.device.type
    if name not in OURS:
        return f"there is no kernel for {name}"
    if device not in (name, "meta"):
        return f"it runs on {name} and the tensors are on {device}"
    if missing := (_CPU_MISSING if name == "cpu" else _cuda_missing()):
        return missing
    dtypes = kernel.cpu if name == "cpu" else kernel.cuda
    if x.dtype not in dtypes:
        return f"it computes in {' and '.join(str(t).removeprefix('torch.') for t in dtypes)}, not in {x.dtype}"
    if kernel.channels and x.shape[-1] not in kernel.channels:
        return f"it has no kernel for {x.shape[-1]} channels per head, only for {', '.join(map(str, kernel.channels))}"
    return ""


_CPU_MISSING = "sky4._C is not built (scripts/sky4 builds it)" if _C is None else ""


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _cuda_missing() -> str:
    return _missing("cuda")


@cache
def _missing(name: str) -> str:
    """Why a backend is not there at all, or the empty string."""
    if name not in OURS or _CPU_MISSING:
        return _CPU_MISSING if name in OURS else ""
    if name == "cpu":
        return ""
    if not CUDA_ARCHS:
        return (
            "this sky4._C was built without CUDA kernels "
            "(build it again where nvcc and a GPU are found, or with SKY4_CUDA_ARCHS set)"
        )
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    found = torch.cuda.get_device_capability()
    if found < OLDEST_GPU:
        return f"it needs compute capability {OLDEST_GPU[0]}.{OLDEST_GPU[1]} and this GPU has {found[0]}.{found[1]}"
    return ""


def available() -> dict[str, str]:
    """Every backend but auto with the reason why it is not there; the empty string where it is."""
    return {name: _missing(name) for name in NAMES if name != "auto"}


def set_backend(name: str) -> None:
    """Choose the backend of all later calls that name none. Raises ValueError where it is unknown or not there."""
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


def unavailable(name: str) -> str:
    """Why no backend of this name can be chosen, with the remedy; the empty string where it can."""
    if name not in NAMES:
        return f"choose one of {', '.join(NAMES)}"
    if name in OURS and (missing := _CPU_MISSING if name == "cpu" else _cuda_missing()):
        return f"{missing}; choose auto or torch"
    return ""


def _known(name: str) -> str:
    if fault := unavailable(name):
        raise ValueError(f"attention backend {name!r} is not available: {fault}")
    return name


def _announce(what: str, chosen: str, device: str, obstacle: str) -> None:
    key = f"{what} {chosen} {device}"
    if key not in _announced:
        _announced.add(key)
        reason = f": {obstacle}" if obstacle and device in OURS else ""
        _log.info("%s backend: %s on %s (chosen automatically%s)", what, chosen, device, reason)


def runs_directly(tensors: Iterable[Tensor]) -> bool:
    """Whether a kernel may be called past torch's dispatcher: nothing records, traces or stands in for the tensors.

    The dispatcher costs several times what a small call does.
    """
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    recorded = torch.is_grad_enabled()
    for x in tensors:
        if (type(x) is not Tensor and type(x) is not torch.nn.Parameter) or (recorded and x.requires_grad):
            return False
        if x.is_meta:
            return False
    return True


def dense_rows(x: Tensor) -> Tensor:
    """x with stride 1 along its last axis and no gradient, as the kernels read it; a copy only where it must be."""
    x = x.detach() if x.requires_grad else x
    return x if x.stride(-1) == 1 or x.shape[-1] <= 1 else x.contiguous()


def stream(x: Tensor) -> int:
    """The CUDA stream that work on x goes to, as the kernels take it; 0 on the CPU."""
    return torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def cpu_multiplies_bf16() -> bool:
    """Whether the processor has bfloat16 matrix instructions; without them bfloat16 is slower than float32."""
    return _cpu_multiplies_bf16()


@cache
def _cpu_multiplies_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False  # no Linux: nothing to know it by
    return "avx512_bf16" in flags or "amx_bf16" in flags
