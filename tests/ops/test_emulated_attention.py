"""The CUDA attention kernels (mma.sync path) without a GPU: their own sources on emulated thread blocks.

csrc/tests/emulated_attention.cpp holds the cases and the double-precision oracle; here it is built and run.
"""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
COMPILER = shutil.which(os.environ.get("CXX", "c++"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler found; set CXX"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The emulated kernels and their cases, built with the host's compiler."""
    folder = tmp_path_factory.mktemp("emulated_attention")
    sources = [
        CSRC / "cuda/attention.cu",
        *sorted((CSRC / "cuda/sm80").glob("*.cu")),
        CSRC / "tests/emulated_attention.cpp",
    ]
    objects = [folder / f"{number}.o" for number in range(len(sources))]
    options = ["-std=c++17", "-O2", "-DSKY4_EMULATED", "-I", str(CSRC / "tests/emulation_sm80"), "-x", "c++", "-c"]

    def compile_one(source: Path, target: Path) -> None:
        subprocess.run([str(COMPILER), *options, str(source), "-o", str(target)], check=True)

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(compile_one, sources, objects))
    subprocess.run([str(COMPILER), *map(str, objects), "-o", str(folder / "program")], check=True)
    return folder / "program"


@pytest.mark.parametrize("op", ["joint", "sparse"])
def test_kernels_agree_with_the_oracle_free_of_races_and_bank_conflicts(program: Path, op: str) -> None:
    done = subprocess.run([str(program), op], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": ok\n") >= 9
