"""Assembled inputs through a small random model: what conditioning promises must hold behind the towers too."""

import pytest
import torch
from torch import Tensor

from sky4.conditioning import (
    assemble_audio,
    assemble_video,
    audio_velocity,
    join_audio_references,
    join_video_references,
    video_velocity,
)
from sky4.conditioning.inpaint import condition_on, keep_first
from sky4.config import nano
from sky4.inputs import TextInput
from sky4.model.transformer import JointTransformer


@pytest.fixture(scope="module")
def model() -> JointTransformer:
    torch.manual_seed(0)
    made = JointTransformer(nano()).double().eval()
    for parameter in made.parameters():  # nothing may hide behind a gate that starts at zero
        torch.nn.init.normal_(parameter, std=0.1)
    return made


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.inference_mode()
def run(model: JointTransformer, rows: list[int], counts: dict[int, int]) -> tuple[Tensor, Tensor]:
    """Velocities of the samples `rows`; sample r has counts[r] references of either kind."""
    config = nano()
    channels, sound = config.video_channels, config.audio_channels
    noisy = torch.stack([randn(channels, 3, 4, 4, seed=row) for row in rows])
    waves = torch.stack([randn(9, sound, seed=10 + row) for row in rows])
    condition = condition_on(
        randn(*noisy.shape, seed=7)[:1].expand_as(noisy), keep_first((len(rows), 3, 4, 4)), noisy[:1] * 0
    )
    pictures = [[randn(channels, 1, 4, 2 + 2 * i, seed=20 + row + i) for i in range(counts[row])] for row in rows]
    voices = [[randn(2 + i, sound, seed=30 + row + i) for i in range(counts[row])] for row in rows]
    t = torch.full((len(rows),), 0.4, dtype=torch.float64)
    video = assemble_video(noisy, condition, join_video_references(pictures), t)
    audio = assemble_audio(waves, join_audio_references(voices), t, 3 / 9)
    text = TextInput(randn(1, 5, config.text_channels).expand(len(rows), -1, -1), torch.ones(len(rows), 5).bool())
    v, a = model(video, audio, text)
    return video_velocity(v, video.reference_tokens, noisy.shape), audio_velocity(a, audio.reference_tokens)


def test_a_sample_with_fewer_references_is_not_touched_by_the_batchs_padding(model: JointTransformer) -> None:
    counts = {0: 1, 1: 2, 2: 0}
    together = run(model, [0, 1, 2], counts)
    for row in counts:
        for batched, alone in zip(together, run(model, [row], counts), strict=True):
            torch.testing.assert_close(batched[row], alone[0], rtol=1e-9, atol=1e-9)


def test_references_matter(model: JointTransformer) -> None:
    with_one, without = run(model, [0], {0: 1}), run(model, [0], {0: 0})
    for one, none in zip(with_one, without, strict=True):
        assert float((one - none).abs().max()) > 1e-4
