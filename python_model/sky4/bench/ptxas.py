"""What the compiler says of the CUDA kernels: registers, spills and shared memory, from the build's log.

The log is what `nvcc -Xptxas -v` prints; build/ptxas.log of a checkout.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sky4.bench.machine import CHECKOUT
from sky4.errors import RequestError

LOG = Path("build") / "ptxas.log"

_COMPILING = re.compile(r"Compiling entry function '(\S+)' for '(\S+?)'")
_PROPERTIES = re.compile(r"Function properties for (\S+)")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class CompiledKernel:
    """One kernel for one architecture. Bytes are per thread, `shared_bytes` (those known to the compiler) per block."""

    name: str
    arch: str
    registers: int
    stack_bytes: int
    spill_stores: int
    spill_loads: int
    shared_bytes: int


def read_log(checkout: Path | None = None) -> list[CompiledKernel]:
    """The kernels of the checkout's last build. RequestError where there is no log, or no kernel in it."""
    log = (checkout or CHECKOUT) / LOG
    try:
        text = log.read_text("utf-8", errors="replace")
    except OSError:
        raise RequestError(
            f"--ptxas: there is no {log}; build the CUDA kernels with nvcc in a checkout, which writes it"
        ) from None
    kernels = parse_log(text)
    if not kernels:
        raise RequestError(f"--ptxas: {log} tells of no kernel; build the CUDA kernels again")
    return kernels


def parse_log(text: str) -> list[CompiledKernel]:
    """The entry functions in the order in which they were compiled; other device functions are left out."""
    found: list[tuple[str, str, dict[str, int]]] = []
    at_entry = False
    for line in text.splitlines():
        if entry := _COMPILING.search(line):
            found.append((entry[1], entry[2], {}))
            at_entry = True
            continue
        if properties := _PROPERTIES.search(line):
            at_entry = bool(found) and properties[1] == found[-1][0]
        if not found:
            continue
        values = found[-1][2]
        if at_entry and (spills := _SPILLS.search(line)):
            values |= dict(zip(("stack", "stores", "loads"), map(int, spills.groups()), strict=True))
        if used := _USED.search(line):
            values["registers"] = int(used[1])
            values["shared"] = int(shared[1]) if (shared := _SHARED.search(line)) else 0
    names = demangled([mangled for mangled, _, _ in found])
    return [
        CompiledKernel(
            readable(name),
            arch,
            values.get("registers", 0),
            values.get("stack", 0),
            values.get("stores", 0),
            values.get("loads", 0),
            values.get("shared", 0),
        )
        for name, (_, arch, values) in zip(names, found, strict=True)
    ]


def demangled(names: list[str]) -> list[str]:
    """C++ names as written in the source, by c++filt or cu++filt; where neither is there, as they are."""
    tool = shutil.which("cu++filt") or shutil.which("c++filt")
    if tool is None or not names:
        return names
    done = subprocess.run([tool], input="\n".join(names), capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    return lines if len(lines) == len(names) else names


def readable(name: str) -> str:
    """Without return type, namespaces of ours and arguments: `forward_kernel<128, 64>`."""
    text = re.sub(r"\(anonymous namespace\)::|\bsky4::(cuda::)?|\((?:int|bool|long)\)", "", name)
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            text = text[:at]
            break
    depth, start = 0, 0
    for at, letter in enumerate(text):
        depth += (letter == "<") - (letter == ">")
        if letter == " " and depth == 0:
            start = at + 1
    return text[start:]
