"""The CUDA compiler and disassembler: those of the machine where they fit, else those of pip wheels under build/."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ROOT / "build" / "cuda-wheels"

# The compiler that the numbers in cuda_expectations.toml are of: another one gives out registers differently.
RELEASE = "13.0"

USUAL_PLACE = "/usr/local/cuda"


class ToolMissing(Exception):
    """A tool that can neither be found nor installed; the message tells why."""


def build_tool(name: str) -> str:
    """Of this Python's own environment if it has one, else the system's. Raises ToolMissing."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise ToolMissing(f"{name} is needed and not found; run scripts/test once, or install it")
    return found


def installed(requirements: Path) -> Path:
    """The folder with the wheels of a requirements file, without what those ask for. Installs them if they changed.

    Raises ToolMissing with pip's own last line.
    """
    wanted = requirements.read_text("utf-8")
    target = WHEELS / f"{requirements.stem}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    if target.is_dir():
        return target
    print(f"compile_cuda: installing {requirements.relative_to(ROOT)} into {target.relative_to(ROOT)}", flush=True)
    partial = target.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"]
    done = subprocess.run(
        [*pip, "--no-deps", "--no-compile", "--target", str(partial), "-r", str(requirements)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        raise ToolMissing(f"{requirements.relative_to(ROOT)} could not be installed: {errors[-1]}")
    partial.rename(target)
    return target


def release_of(nvcc: Path) -> str | None:
    """Such as "13.0"; None if it does not run."""
    try:
        done = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"release (\d+\.\d+)", done.stdout)
    return found[1] if found else None


def find_nvcc(environment: dict[str, str] | None = None) -> Path:
    """CUDACXX if that is set, else an nvcc of RELEASE on this machine, else that of the wheels.

    Raises ToolMissing: CUDACXX does not run, or nothing is found and the wheels cannot be installed.
    """
    env = dict(os.environ) if environment is None else environment
    if named := env.get("CUDACXX"):
        if release_of(Path(named)) is None:
            raise ToolMissing(f"CUDACXX is {named!r}, which does not run as nvcc; name another or unset it")
        return Path(named)
    passed_over = []
    for candidate in _candidates(env):
        release = release_of(candidate)
        if release == RELEASE:
            return candidate
        passed_over.append(f"{candidate} is of release {release}" if release else f"{candidate} does not run")
    try:
        toolkit = installed(Path(__file__).with_name("requirements-nvcc.txt")) / "nvidia" / "cu13"
    except ToolMissing as error:
        found = "; ".join(passed_over) or "none found on this machine"
        raise ToolMissing(f"no nvcc {RELEASE}: {found}; {error}") from error
    if not (toolkit / "lib64").exists():  # where nvcc looks for the libraries that the wheels keep in lib
        (toolkit / "lib64").symlink_to("lib")
    nvcc = toolkit / "bin" / "nvcc"
    if release_of(nvcc) != RELEASE:
        raise ToolMissing(f"no nvcc {RELEASE}: the one of the wheels, {nvcc}, does not run")
    return nvcc


def _candidates(env: dict[str, str]) -> list[Path]:
    on_path = shutil.which("nvcc", path=env.get("PATH", ""))
    homes = [env.get("CUDA_HOME"), env.get("CUDA_PATH"), USUAL_PLACE]
    found = [Path(on_path)] if on_path else []
    found += [Path(home) / "bin" / "nvcc" for home in homes if home]
    return [path for path in dict.fromkeys(found) if path.is_file()]


def find_cuobjdump() -> Path:
    """On the path (with its nvdisasm), else of the wheels. Raises ToolMissing."""
    if (found := shutil.which("cuobjdump")) and shutil.which("nvdisasm"):
        return Path(found)
    return installed(Path(__file__).with_name("requirements-disassembler.txt")) / "nvidia/cu13/bin/cuobjdump"
