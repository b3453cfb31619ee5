"""Builds _emulated_cuda: the small CUDA kernels compiled as C++ over csrc/tests/emulation, to run without a GPU."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CSRC = ROOT / "csrc"
KERNELS = ("latent_assemble", "qk_norm_rope", "select_cubes")
SOURCES = [
    CSRC / "tests" / "bind" / "emulated_cuda.cpp",
    CSRC / "cuda" / "memory.cpp",
    *(CSRC / "bind" / f"{kernel}.cpp" for kernel in KERNELS),
    *(CSRC / "cuda" / f"{kernel}.cu" for kernel in KERNELS),
]
FLAGS = [
    *("-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden"),
    "-ffp-contract=off",  # the kernels ask for their roundings; nvcc's own contractions are within the tests' tolerance
    "-fsanitize=bounds,shift,signed-integer-overflow,alignment",
    "-fno-sanitize-recover=all",
    "-DSKY4_EMULATED",
]


def emulated_module() -> ModuleType:
    """The module, compiled anew when one of the sources has changed. Skips the test where there is no C++ compiler."""
    import pybind11

    include = [f"-I{CSRC / 'tests' / 'emulation'}", f"-isystem{pybind11.get_include()}"]
    include.append(f"-isystem{sysconfig.get_path('include')}")
    compiler = os.environ.get("CXX", "c++").split()
    headers = sorted([*CSRC.glob("*.h"), *CSRC.glob("bind/*.h"), *CSRC.glob("cuda/*.h"), *CSRC.glob("tests/**/*.h")])
    contents = b"".join(path.read_bytes() for path in [*SOURCES, *headers]) + repr((compiler, FLAGS)).encode()
    folder = ROOT / "build" / "emulated" / hashlib.sha256(contents).hexdigest()[:16]
    built = folder / f"_emulated_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not built.exists():
        folder.mkdir(parents=True, exist_ok=True)

        def compiled(source: Path) -> str:
            target = folder / f"{source.parent.name}_{source.stem}.o"
            _run([*compiler, *FLAGS, *include, "-x", "c++", "-c", str(source), "-o", str(target)])
            return str(target)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compiled, SOURCES))
        partial = built.with_suffix(".partial")
        _run([*compiler, *FLAGS, "-shared", *objects, "-o", str(partial)])
        partial.rename(built)
    spec = importlib.util.spec_from_file_location("_emulated_cuda", built)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip(f"no C++ compiler: {command[0]} is not found")
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
