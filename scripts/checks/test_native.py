"""The C++ by itself, under sanitizers: every program of csrc/tests, the CPU kernels at every instruction-set level."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.checks.toolchain import ROOT, ToolMissing, build_tool

OUT = ROOT / "build" / "native"

# The thread sanitizer cannot be had together with the others.
SANITIZERS = {"address": "address,undefined", "thread": "thread"}

# Of one program; a deadlock would otherwise hold CI until its end.
LIMIT = 300.0

OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}

# GCC 12 and 13 place variables of 64 bytes' alignment wrongly on the address sanitizer's own stack (GCC bug 110027).
WIDE_LEVELS = {"avx512", "avx512_bf16"}
WIDE_OPTIONS = {"ASAN_OPTIONS": OPTIONS["ASAN_OPTIONS"].replace("use_after_return=1", "use_after_return=0")}


@dataclass(frozen=True)
class Run:
    program: Path
    level: str | None  # SKY4_ISA

    @property
    def title(self) -> str:
        return f"{self.program.parents[1].name} {self.program.name}" + (f" at {self.level}" if self.level else "")


def build(sanitizer: str) -> Path:
    """The folder with the programs. Raises CalledProcessError with the compiler's words."""
    import pybind11

    folder = OUT / sanitizer
    folder.mkdir(parents=True, exist_ok=True)
    configure = [
        *(build_tool("cmake"), "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", "--fresh"),
        f"-DCMAKE_MAKE_PROGRAM={build_tool('ninja')}",
        # A build type of its own: quick to compile, with assertions and lines.
        *("-DCMAKE_BUILD_TYPE=Sanitized", "-DCMAKE_CXX_FLAGS_SANITIZED=-O1 -g1"),
        *("-DSKY4_TESTS=ON", f"-DSKY4_SANITIZE={SANITIZERS[sanitizer]}"),
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
    ]
    environment = {**os.environ, "SKY4_CUDA_ARCHS": "none"}
    for command in (configure, [build_tool("cmake"), "--build", str(folder), "--target", "sky4_tests"]):
        subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
        )
    return folder / "tests"


def runs_of(folder: Path, levels: Iterable[str]) -> list[Run]:
    programs = sorted(path for path in folder.iterdir() if path.is_file() and os.access(path, os.X_OK))
    return [
        Run(program, level)
        for program in programs
        for level in (levels if program.name.startswith("cpu_") else (None,))
    ]


def run_one(run: Run, environment: Mapping[str, str]) -> str | None:
    """None, or what went wrong."""
    level = {"SKY4_ISA": run.level} if run.level else {}
    if run.level in WIDE_LEVELS:
        level |= WIDE_OPTIONS
    try:
        done = subprocess.run(
            [str(run.program)],
            env={**environment, **OPTIONS, **level},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"did not end in {LIMIT:.0f} s"
    text = done.stdout.decode("utf-8", "replace")
    # A sanitizer that was told to go on by somebody's options still prints its report.
    reported = any(mark in text for mark in ("ERROR: AddressSanitizer", "runtime error:", "WARNING: ThreadSanitizer"))
    return None if done.returncode == 0 and not reported else f"exit code {done.returncode}\n{text[-8000:]}"


def levels_here() -> list[str]:
    """The instruction-set levels that this processor runs, by the extension that set-up built."""
    ask = "from sky4 import _C; print(*_C.isa_levels())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "python_model")}
    done = subprocess.run(
        [sys.executable, "-c", ask], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def main() -> int:
    began = time.monotonic()
    try:
        folders = [build(sanitizer) for sanitizer in SANITIZERS]
    except ToolMissing as error:
        print(f"test_native: {error}")
        return 1
    except subprocess.CalledProcessError as error:
        print(f"test_native: {error.output}\ntest_native: the C++ does not build with sanitizers")
        return 1
    print(f"test_native: built in {time.monotonic() - began:.0f} s", flush=True)
    runs = [run for folder in folders for run in runs_of(folder, levels_here())]
    failed = 0
    for run in runs:
        start = time.monotonic()
        fault = run_one(run, os.environ)
        failed += fault is not None
        print(f"  {run.title}: {'ok' if fault is None else fault}, {time.monotonic() - start:.1f} s", flush=True)
    print(f"test_native: {len(runs) - failed} passed, {failed} failed, {time.monotonic() - began:.0f} s")
    if not runs:
        print("test_native: there is no program in csrc/tests to run")
    return 1 if failed or not runs else 0


if __name__ == "__main__":
    sys.exit(main())
