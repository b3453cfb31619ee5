"""Where the tests of the CUDA kernels run: on a GPU, or on the CPU under csrc/tests/emulation.

A test that asks for `kernels` runs on both: `cuda` is skipped, with its reason, where there is no GPU or no CUDA kernel
in sky4._C; `emulated` runs the kernels' own sources, compiled as C++, and is for shapes of a few thousand numbers.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch

from tests.gpu.emulated import emulated_module


@dataclass(frozen=True)
class Kernels:
    module: ModuleType  # sky4._C or its emulated likeness
    device: torch.device

    @property
    def stream(self) -> int:
        return torch.cuda.current_stream(self.device).cuda_stream if self.device.type == "cuda" else 0

    def __getattr__(self, name: str):
        kernel = getattr(self.module, name)
        return lambda *args, **kwargs: kernel(*args, **kwargs, stream=self.stream)


def why_no_cuda() -> str:
    """Why CUDA kernels cannot run here; empty where they can."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    try:
        archs = importlib.import_module("sky4._C").cuda_archs()
    except ImportError as error:
        return f"sky4._C does not load: {error}"
    if not archs:
        return "sky4._C was built without CUDA kernels"
    return ""


@pytest.fixture(scope="session")
def cuda() -> Kernels:
    """The kernels of sky4._C on the first GPU."""
    if reason := why_no_cuda():
        pytest.skip(reason)
    return Kernels(importlib.import_module("sky4._C"), torch.device("cuda", 0))


@pytest.fixture(scope="session", params=["cuda", pytest.param("emulated", marks=pytest.mark.slow)])
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    if request.param == "cuda":
        yield request.getfixturevalue("cuda")
    else:
        yield Kernels(emulated_module(), torch.device("cpu"))
