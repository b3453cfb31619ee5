"""Where and how precisely to compute: what is asked for, or the best that this machine has."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import cast

import torch

from sky4.distributed.meeting import local_number, several
from sky4.errors import RequestError
from sky4.model.eight_bit import KINDS as EIGHT_BIT
from sky4.model.eight_bit import require_torchao
from sky4.ops.backend import cpu_multiplies_bf16
from sky4.pipeline.economy import Eight
from sky4.pipeline.engine import SHORT

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(wanted: str = "auto") -> torch.device:
    """ "auto", "cpu", "cuda" or "cuda:N". RequestError for a device that is not there.

    Where no number is given, each of several processes takes its own GPU.
    """
    if wanted == "auto":
        return torch.device("cuda", _own_gpu()) if torch.cuda.is_available() else torch.device("cpu")
    kind, _, number = wanted.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()) or (kind == "cpu" and number):
        raise RequestError(f"--device {wanted} is unknown; use auto, cpu, cuda or cuda:N")
    if kind == "cpu":
        return torch.device("cpu")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or 0) >= found:
        raise RequestError(f"--device {wanted} is not there: torch sees {found} CUDA devices; use --device cpu")
    return torch.device("cuda", int(number) if number else local_number() % found)


def _own_gpu() -> int:
    """Of this process: of several the one of its number, else the one that torch has at hand."""
    return local_number() % torch.cuda.device_count() if several() > 1 else torch.cuda.current_device()


def choose_precision(wanted: str, device: torch.device) -> tuple[torch.dtype, Eight]:
    """(the dtype that is computed in, "int8" or "fp8" where weights are kept in that), as `choose_dtype` where only
    that is asked for. RequestError for what is unknown, and without torchao for the narrow ones."""
    narrow = cast(Eight, wanted if wanted in EIGHT_BIT else "")
    if narrow:
        require_torchao(narrow)
    return choose_dtype("auto" if narrow else wanted, device), narrow


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """ "auto", "float32", "bfloat16", "float16". auto takes bfloat16 where the machine multiplies in it."""
    if wanted == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else cpu_multiplies_bf16()
        return torch.bfloat16 if fast else torch.float32
    name = SHORT.get(wanted, wanted)
    if name in EIGHT_BIT:
        raise RequestError(f"--dtype {wanted} is for making clips; here use auto, {', '.join(DTYPES)}")
    if name not in DTYPES:
        raise RequestError(f"--dtype {wanted} is unknown; use auto, {', '.join((*DTYPES, *EIGHT_BIT))}")
    if name == "float16" and device.type == "cpu":
        raise RequestError("--dtype float16 is for CUDA devices; on the CPU use float32 or bfloat16")
    return DTYPES[name]


def processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def use_threads(wanted: int | None = None) -> int:
    """Let torch compute on so many threads: as wanted, else as OMP_NUM_THREADS says, else one per physical core."""
    if wanted is not None:
        torch.set_num_threads(wanted)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(physical_cores())
    return torch.get_num_threads()


def physical_cores() -> int:
    """Cores that this process may use, hyper-threads counted once."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = set()
    for cpu in allowed:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            cores.add((topology / "thread_siblings_list").read_text())
        except OSError:
            cores.add(str(cpu))
    return max(1, len(cores))
