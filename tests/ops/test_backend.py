"""The choice of backend: by name, by itself, and what it says."""

from __future__ import annotations

import logging

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from sky4.ops import backend
from sky4.ops.backend import available, native, runs_directly, select, set_backend, use_backend


def heads(channels: int = 64, dtype: torch.dtype = torch.float32, device: str = "cpu") -> torch.Tensor:
    return torch.zeros(1, 2, 3, channels, dtype=dtype, device=device)


def test_auto_takes_our_kernels_where_they_can_serve_and_torch_elsewhere() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        for channels in (32, 64, 96, 128):
            assert select("joint_attention", heads(channels, dtype)) == "cpu"
    assert select("joint_attention", heads(16)) == "torch"
    assert select("joint_attention", heads(dtype=torch.float16)) == "torch"
    assert select("joint_attention", heads(dtype=torch.float64)) == "torch"
    assert select("joint_attention", heads(device="meta")) == "torch"
    assert select("joint_attention", heads(), cannot="it is Sunday") == "torch"
    assert select("qk_norm_rope", heads(16)) == "cpu"  # any number of channels there


def test_a_name_is_honoured_and_restored() -> None:
    x = heads()
    with use_backend("reference"):
        assert select("joint_attention", x) == "reference"
        with use_backend("torch"):
            assert select("joint_attention", x) == "torch"
            assert select("joint_attention", x, "cpu") == "cpu"
        assert select("joint_attention", x) == "reference"
    assert select("joint_attention", x) == "cpu"


def test_a_failed_choice_changes_nothing() -> None:
    with use_backend("reference"):
        with pytest.raises(ValueError):
            set_backend("flash")
        assert select("joint_attention", heads()) == "reference"


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="'flash' is not available: choose one of auto, cuda, cpu, torch, reference"):
        set_backend("flash")


@pytest.mark.parametrize(
    ("x", "cannot", "reason"),
    [
        (heads(16), "", "no kernel for 16 channels per head, only for 32, 64, 96, 128"),
        (heads(dtype=torch.float64), "", "computes in float32 and bfloat16, not in torch.float64"),
        (heads(), "it is Sunday", "it is Sunday"),
    ],
)
def test_a_name_that_cannot_serve_is_an_error_with_reason_and_remedy(x: torch.Tensor, cannot: str, reason: str) -> None:
    with pytest.raises(
        ValueError, match=f"joint_attention: backend cpu cannot serve: .*{reason}; choose auto or torch"
    ):
        select("joint_attention", x, "cpu", cannot)


@pytest.mark.skipif(not available()["cuda"], reason="the CUDA kernels are there")
def test_cuda_kernels_that_are_not_there_are_refused_with_the_reason() -> None:
    reason = available()["cuda"]
    assert "CUDA" in reason
    with pytest.raises(ValueError) as caught:
        set_backend("cuda")
    assert reason in str(caught.value) and str(caught.value).endswith("choose auto or torch")


def test_without_the_extension_torch_serves_and_its_kernels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_CPU_MISSING", "sky4._C is not built")
    backend._missing.cache_clear()
    try:
        assert select("joint_attention", heads()) == "torch"
        assert available()["cpu"] == available()["cuda"] == "sky4._C is not built"
        assert available()["torch"] == available()["reference"] == ""
        with pytest.raises(ValueError, match=r"'cpu' is not available: sky4\._C is not built; choose auto or torch"):
            set_backend("cpu")
    finally:
        backend._missing.cache_clear()


def test_an_automatic_choice_is_said_once_and_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    backend._announced.clear()
    with caplog.at_level(logging.INFO, logger="sky4"):
        for _ in range(3):
            select("joint_attention", heads())
            select("joint_attention", heads(16))
            select("qk_norm_rope", heads())  # part of the same choice
    first, second = caplog.messages
    assert first == "attention backend: cpu on cpu (chosen automatically)"
    assert second.startswith("attention backend: torch on cpu (chosen automatically: it has no kernel for 16 channels")


def test_a_name_is_not_announced(caplog: pytest.LogCaptureFixture) -> None:
    backend._announced.clear()
    with caplog.at_level(logging.INFO, logger="sky4"):
        select("joint_attention", heads(), "torch")
    assert not caplog.messages


def test_every_operation_has_its_kernel_in_the_extension() -> None:
    assert set(backend.KERNELS) <= set(dir(native()))


def test_the_dispatcher_is_passed_by_only_where_nothing_watches() -> None:
    x = heads()
    trained = torch.nn.Parameter(x.clone())
    assert runs_directly([x])
    assert not runs_directly([x, trained])
    with torch.no_grad():
        assert runs_directly([x, trained])
    assert not runs_directly([x.to("meta")])
    with FlopCounterMode(display=False):
        assert not runs_directly([x])
    with FakeTensorMode() as fake:
        imitation = fake.from_tensor(x)
    assert not runs_directly([imitation])
    seen = []

    def look(row: torch.Tensor) -> torch.Tensor:
        seen.append(runs_directly([row]))
        return row

    torch.func.vmap(look)(x)
    assert seen == [False]
