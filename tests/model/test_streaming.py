"""Blocks that stay on disk: the same numbers, never more than two depths at once, the same complaints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sky4.config import nano
from sky4.inputs import TextInput, TowerInput
from sky4.model.checkpoint import WeightsError, load_transformer, save_transformer
from sky4.model.streaming import stream_refiner, stream_transformer
from sky4.model.transformer import JointTransformer

CPU = torch.device("cpu")


def evaluated(model: JointTransformer) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    config = nano()

    def tower(tokens: int, channels: int) -> TowerInput:
        return TowerInput(torch.randn(1, tokens, channels), torch.rand(tokens, 3), torch.rand(1))

    video, audio = tower(12, config.video_in_channels), tower(5, config.audio_channels)
    with torch.inference_mode():
        made = model(video, audio, TextInput(torch.randn(1, 4, config.text_channels), None))
    assert made[0] is not None and made[1] is not None
    return made[0], made[1]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_streamed_blocks_give_the_same_bits_again_and_again(nano_model: Path, dtype) -> None:
    folder = nano_model / "transformer"
    whole, streamed = load_transformer(folder, CPU, dtype), stream_transformer(folder, CPU, dtype)
    for _ in range(2):
        for a, b in zip(evaluated(whole), evaluated(streamed), strict=True):
            assert torch.equal(a, b)


def test_between_evaluations_no_block_is_in_memory(nano_model: Path) -> None:
    model = stream_transformer(nano_model / "transformer", CPU)
    evaluated(model)
    places = {name.split(".")[0] + "." + name.split(".")[1]: w.device.type for name, w in model.named_parameters()}
    assert {places[key] for key in ("video.blocks", "audio.blocks")} == {"meta"}
    assert places["video.token_in"] == "cpu"


def test_a_refiner_is_streamed_too(refining_model: Path) -> None:
    model = stream_refiner(refining_model / "refiner", CPU)
    assert {w.device.type for name, w in model.named_parameters() if name.startswith("blocks.")} == {"meta"}
    assert len(list(model.blocks)) == 2


def test_weights_that_do_not_fit_are_refused_at_once(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_transformer(JointTransformer(nano()), tmp_path / "t")
    file = tmp_path / "t" / "model.safetensors"
    weights = load_file(file)
    del weights["video.blocks.0.mlp.out.bias"]
    weights["audio.blocks.1.inward.weight"] = weights["audio.blocks.1.inward.weight"][1:].contiguous()
    save_file(weights, file)
    with pytest.raises(WeightsError) as caught:
        stream_transformer(tmp_path / "t", CPU)
    assert caught.value.missing == ["video.blocks.0.mlp.out.bias"]
    assert caught.value.misshaped[0].startswith("audio.blocks.1.inward.weight")
