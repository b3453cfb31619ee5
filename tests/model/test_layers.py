"""The model's own linear layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sky4.model import layers


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_linear_rounds_the_exact_product_once(monkeypatch: pytest.MonkeyPatch, fast: bool, dtype: torch.dtype) -> None:
    monkeypatch.setattr(layers, "cpu_multiplies_bf16", lambda: fast)
    torch.manual_seed(0)
    layer, x = layers.Linear(48, 32).to(dtype), torch.randn(2, 7, 48).to(dtype)
    truth = nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
    out = layer(x)
    assert out.dtype == dtype
    unit = 2.0**-8 if dtype == torch.bfloat16 else 2.0**-20
    assert ((out.double() - truth).abs() <= unit * truth.abs() + 1e-6).all()
    out.sum().backward()
    assert layer.weight.grad.dtype == dtype and layer.bias.grad.dtype == dtype


def test_linear_keeps_the_names_and_shapes_of_torch_s() -> None:
    ours, theirs = layers.Linear(4, 3).state_dict(), nn.Linear(4, 3).state_dict()
    assert {name: x.shape for name, x in ours.items()} == {name: x.shape for name, x in theirs.items()}
