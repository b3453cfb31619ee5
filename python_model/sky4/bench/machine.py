"""What the figures belong to: the machine and its software, and its roofs, a matrix product and a copy, measured."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sky4 import __version__
from sky4.bench.timing import Stopwatch, Timing
from sky4.ops.backend import cpu_multiplies_bf16
from sky4.pipeline.devices import physical_cores, processor

CHECKOUT = Path(__file__).resolve().parents[3]
ROOF_SECONDS = 0.5  # for one visit; there is one before every case and one after the last
VISIT_SAMPLES = 3
SLOW_PRODUCT = 0.5  # seconds


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def environment(device: torch.device, dtype: torch.dtype, seed: int) -> dict[str, Any]:
    """JSON values: device, cores, instruction set, versions, commit."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else processor(),
        "device_type": device.type,
        "capability": ".".join(map(str, torch.cuda.get_device_capability(device))) if cuda else None,
        "cores": physical_cores(),
        "threads": torch.get_num_threads(),
        "isa": _isa(),
        "bf16_instructions": None if cuda else cpu_multiplies_bf16(),
        "dtype": dtype_name(dtype),
        "seed": seed,
        "sky4": __version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **_commit(),
    }


def _isa() -> str | None:
    """The instruction set that the extension chose; None without the extension."""
    try:
        extension = importlib.import_module("sky4._C")
    except ImportError:
        return None
    told = getattr(extension, "isa", None)
    return str(told()) if callable(told) else None


def _commit() -> dict[str, Any]:
    """The checkout's commit and whether files differ from it; None outside a checkout."""
    if not (CHECKOUT / ".git").exists():
        return {"commit": None, "modified": None}
    commit, state = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit or None, "modified": bool(state) if commit else None}


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def free_memory(device: torch.device) -> int:
    """Bytes that a case may take."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


@dataclass
class Roof:
    """One limit of the machine, with the samples of all its visits. `rate`: flop or bytes in a second."""

    name: str  # "matmul" or "copy"
    dtype: str
    size: int  # side of the matrices, or bytes of the buffer
    work: int  # flop, or bytes read and written
    samples: list[float]

    @property
    def rate(self) -> float:
        return self.work / Timing.of(self.samples, 0).median

    def to_dict(self) -> dict[str, Any]:
        timing = Timing.of(self.samples, 1)
        per_second = {"flop_per_second" if self.name == "matmul" else "bytes_per_second": self.rate}
        return {"name": self.name, "dtype": self.dtype, "size": self.size, "timing": vars(timing), **per_second}


class Roofs:
    """A square matrix product in the dtype (and in float32 where the CPU has no such instructions), and a copy."""

    def __init__(
        self, device: torch.device, dtypes: Sequence[torch.dtype], stopwatch: Stopwatch, small: bool = False
    ) -> None:
        """small: for tests."""
        self._device, self._stopwatch = device, stopwatch
        cuda = device.type == "cuda"
        size = 2**20 if small else 2**30 if cuda else 2**26  # far beyond the caches
        wanted = dict.fromkeys(dtypes)
        if device.type == "cpu" and not cpu_multiplies_bf16():
            wanted[torch.float32] = None  # what bfloat16 has to be compared with there
        self._calls: list[Callable[[], object]] = []
        self.all: list[Roof] = []
        for kind in wanted:
            call, side = self._matmul(kind, 64 if small else 8192 if cuda else 1024)
            self._calls.append(call)
            self.all.append(Roof("matmul", dtype_name(kind), side, 2 * side**3, []))
        source = torch.ones(size, dtype=torch.int8, device=device)
        target = torch.zeros_like(source)
        self._calls.append(lambda: target.copy_(source))
        self.all.append(Roof("copy", "int8", size, 2 * size, []))

    def _matmul(self, dtype: torch.dtype, side: int) -> tuple[Callable[[], object], int]:
        """A square product; of a quarter of the side where the machine would take long, having no such instructions."""
        small = side // 4
        a, b = (torch.randn(side, side, device=self._device).to(dtype) for _ in range(2))
        c, d = a[:small, :small].contiguous(), b[:small, :small].contiguous()
        _ = c @ d
        if 64 * min(self._stopwatch.sample("roof", lambda: c @ d, 1) for _ in range(3)) > SLOW_PRODUCT:
            return lambda: c @ d, small
        _ = a @ b
        return lambda: a @ b, side

    def visit(self, seconds: float = ROOF_SECONDS) -> None:
        """Sample every roof once more; call it between the cases, so that roofs and cases meet the same machine."""
        for roof, call in zip(self.all, self._calls, strict=True):
            began = self._stopwatch.now()
            for _ in range(VISIT_SAMPLES):
                roof.samples.append(self._stopwatch.sample(f"roof {roof.name}", call, 1))
                if self._stopwatch.now() - began > seconds / len(self.all):
                    break

    def matmul(self, dtype: str) -> float | None:
        """Flop in a second of the matrix product in `dtype`; None where it was not measured."""
        rates = [roof.rate for roof in self.all if roof.name == "matmul" and roof.dtype == dtype]
        return rates[0] if rates else None

    @property
    def copy(self) -> float:
        return next(roof.rate for roof in self.all if roof.name == "copy")

    @property
    def best_matmul(self) -> float:
        return max(roof.rate for roof in self.all if roof.name == "matmul")
