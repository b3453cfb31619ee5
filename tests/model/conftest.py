"""A nano model whose every weight is alive, and inputs for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sky4.conditioning.tokens import audio_positions, video_positions
from sky4.config import TransformerConfig, nano
from sky4.inputs import TextInput, TowerInput
from sky4.model.transformer import JointTransformer


def alive(config: TransformerConfig) -> JointTransformer:
    """Random weights everywhere: a fresh model is silent, and would pass any test of equality."""
    torch.manual_seed(11)
    model = JointTransformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.08)
    return model.eval()


@pytest.fixture(params=["shared", "per_block"])
def model(request: pytest.FixtureRequest) -> JointTransformer:
    return alive(replace(nano(), modulation=request.param))


@pytest.fixture
def inputs() -> tuple[TowerInput, TowerInput, TextInput]:
    """Two samples: video of 3x2x2 tokens, 8 audio tokens, 5 text tokens."""
    generator = torch.Generator().manual_seed(12)
    config = nano()

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(2, *shape, generator=generator)

    video = TowerInput(random(12, config.video_in_channels), video_positions(3, 2, 2), torch.tensor([0.2, 0.7]))
    audio = TowerInput(random(8, config.audio_channels), audio_positions(8, 3 / 8), torch.tensor([0.2, 0.9]))
    return video, audio, TextInput(random(5, config.text_channels), None)
