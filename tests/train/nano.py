"""A nano run's parts: sizes, a model whose outputs are not zero, a text encoder of fixed vectors."""

import zlib
from typing import Any

import torch

from sky4.inputs import TextInput
from sky4.model.transformer import JointTransformer
from sky4.train.settings import JointSettings

CHANNELS, AUDIO_CHANNELS, TEXT_CHANNELS = 4, 6, 8
GRID, FRAMES, SHARD = 4, 13, 16  # latent side, pixel frames (4 latent frames), items of a shard
FAMILY_FRAMES, FAMILY_SHARD = 9, 4  # of takes (3 latent frames)
PAIR_FRAMES = 9  # of a pair's small clip (3 latent frames, 5 of the large one)
TRANSFORMER: dict[str, Any] = {
    "width": 32,
    "heads": 2,
    "rope_axes": [4, 6, 6],
    "video_channels": CHANNELS,
    "audio_channels": AUDIO_CHANNELS,
    "text_channels": TEXT_CHANNELS,
}
ALL_TASKS = {
    "t2i": {"weight": 1.0},
    "t2v": {"weight": 1.0, "frames": [2]},
    "t2av": {"weight": 1.0, "frames": [2, 4]},
    "t2a": {"weight": 1.0},
    "i2v": {"weight": 1.0, "frames": [3]},
    "extend": {"weight": 1.0, "keep": [1, 2]},
    "backward": {"weight": 1.0, "keep": [2]},
    "ends": {"weight": 1.0},
    "mask": {"weight": 1.0},
    "reference": {"weight": 1.0, "frames": [2]},
    "drive": {"weight": 1.0, "first": 0.5},
    "v2a": {"weight": 1.0},
    "keyframes": {"weight": 1.0, "keyframes": [1, 2], "first": 0.5},
}


class PixelCodec:
    """Keeps what it is given."""

    temporal_compression = 1

    def encode(self, value: torch.Tensor) -> torch.Tensor:
        return value


def make_model(settings: JointSettings) -> JointTransformer:
    """A model whose outputs are not zero: at the start heads and gates are, and nothing could be told apart."""
    torch.manual_seed(0)
    model = JointTransformer(settings.transformer_config())
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model


def encode(prompts: list[str]) -> TextInput:
    """Three tokens a prompt, a function of its words; the last is padding for every other length."""
    hidden = torch.stack(
        [
            torch.randn(3, TEXT_CHANNELS, generator=torch.Generator().manual_seed(zlib.crc32(p.encode())))
            for p in prompts
        ]
    )
    mask = torch.ones(len(prompts), 3, dtype=torch.bool)
    mask[:, 2] = torch.tensor([len(prompt) % 2 == 0 for prompt in prompts])
    return TextInput(hidden, mask)
