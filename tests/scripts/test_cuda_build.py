"""Which CUDA kernels a build makes, and the line in which it says so: cmake/cuda.cmake on machines of many kinds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PROJECT = f"""
cmake_minimum_required(VERSION 3.27)
project(probe LANGUAGES NONE)
include({ROOT.as_posix()}/cmake/cuda.cmake)
message(STATUS "says: ${{sky4_cuda_says}}")
"""


def tool(name: str) -> str | None:
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


@pytest.fixture
def configure(tmp_path: Path):
    """configure(wanted, gpus) -> CMake's words, on a machine with these GPUs and an nvcc that does not work."""
    cmake, ninja = tool("cmake"), tool("ninja")
    if cmake is None or ninja is None:
        pytest.skip("cmake and ninja are needed")

    def run(wanted: str | None, gpus: str | None) -> str:
        smi = tmp_path / "nvidia-smi"
        smi.write_text(f"#!/bin/sh\nprintf '{gpus}'\n" if gpus else "#!/bin/sh\nexit 9\n")
        smi.chmod(0o755)
        (tmp_path / "CMakeLists.txt").write_text(PROJECT)
        nvcc = tmp_path / "nvcc"
        nvcc.write_text("#!/bin/sh\nexit 1\n")
        nvcc.chmod(0o755)
        environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "CUDACXX": str(nvcc)}
        environment.pop("SKY4_CUDA_ARCHS", None)
        if wanted is not None:
            environment["SKY4_CUDA_ARCHS"] = wanted
        command = [cmake, "-S", str(tmp_path), "-B", str(tmp_path / "build"), "-G", "Ninja"]
        command.append(f"-DCMAKE_MAKE_PROGRAM={ninja}")
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return " ".join((done.stdout + done.stderr).split())

    return run


@pytest.mark.parametrize(
    ("wanted", "gpus", "said"),
    [
        (None, None, "says: CUDA kernels left out (no GPU in this machine and SKY4_CUDA_ARCHS not set)"),
        ("", None, "says: CUDA kernels left out (no GPU in this machine and SKY4_CUDA_ARCHS not set)"),
        ("none", "9.0", "says: CUDA kernels left out (SKY4_CUDA_ARCHS is none)"),
        (None, "7.5", "says: CUDA kernels left out (the GPU here has compute capability 7.5; they need 8.0)"),
        ("75", None, "SKY4_CUDA_ARCHS holds '75', expected architectures from 80 on such as 80;86;89;90a"),
        ("80,hopper", None, "SKY4_CUDA_ARCHS holds 'hopper', expected"),
    ],
)
def test_without_cuda_kernels_one_line_says_why(configure, wanted, gpus, said) -> None:
    assert said in configure(wanted, gpus)


def test_a_compiler_that_fails_costs_the_cuda_kernels_and_not_the_build(configure) -> None:
    said = configure(None, "9.0\\n9.0\\n8.0\\n7.5\\n")
    assert "says: CUDA kernels for the GPU here (90a;80) left out (" in said
    assert "nvcc does not work here; see build/setup.log)" in said
