"""The compiler's log: figures per kernel and architecture, names as in the source."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sky4.bench.ptxas import CompiledKernel, parse_log, read_log, readable
from sky4.errors import RequestError

ASSEMBLE = "_ZN4sky44cuda51_GLOBAL__N__42ce816d_18_latent_assemble_cu_9993cf738assembleINS_4bf16ELi8EEEvNS1_8AssemblyE"
LOG = f"""# csrc/cuda/latent_assemble.cu
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '{ASSEMBLE}' for 'sm_80'
ptxas info    : Function properties for {ASSEMBLE}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 54 registers, used 0 barriers, 632 bytes cmem[0]
ptxas info    : Compile time = 225.953 ms
ptxas info    : Compiling entry function 'plain' for 'sm_90a'
ptxas info    : Function properties for helper
    64 bytes stack frame, 60 bytes spill stores, 60 bytes spill loads
ptxas info    : Function properties for plain
    8 bytes stack frame, 12 bytes spill stores, 20 bytes spill loads
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized
ptxas info    : Used 168 registers, used 3 barriers, 8 bytes cumulative stack size, 1088 bytes smem
"""


def test_every_kernel_has_its_own_figures() -> None:
    first, second = parse_log(LOG)
    assert (first.arch, first.registers, first.spill_stores, first.shared_bytes) == ("sm_80", 54, 0, 0)
    assert second == CompiledKernel("plain", "sm_90a", 168, 8, 12, 20, 1088)


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="c++filt, which reads C++ names, is not installed")
def test_names_are_those_of_the_source() -> None:
    assert parse_log(LOG)[0].name == "assemble<bf16, 8>"


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("void sky4::cuda::(anonymous namespace)::forward<(int)128, (bool)1>(Params)", "forward<128, 1>"),
        ("sky4::cuda::prep(float const*, int)", "prep"),
        ("plain", "plain"),
    ],
)
def test_names_lose_what_all_of_them_have(name: str, short: str) -> None:
    assert readable(name) == short


def test_without_a_log_the_remedy_is_told(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="build the CUDA kernels with nvcc"):
        read_log(tmp_path)


def test_a_log_without_kernels_is_told_too(tmp_path: Path) -> None:
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "ptxas.log").write_text("ptxas info    : 0 bytes gmem\n")
    with pytest.raises(RequestError, match="tells of no kernel"):
        read_log(tmp_path)
