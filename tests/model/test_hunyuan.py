"""The video tower against diffusers' HunyuanVideo transformer, random weights, float32."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import HunyuanVideoTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from sky4.conditioning.tokens import patchify_video, unpatchify_video, video_positions
from sky4.config import TransformerConfig
from sky4.errors import Sky4Failure
from sky4.inputs import TextInput, TowerInput
from sky4.model.checkpoint import WeightsError
from sky4.model.hunyuan import init_video_from_hunyuan, reverse_time, take_over
from sky4.model.layers import time_frequencies
from sky4.model.transformer import JointTransformer

CHANNELS, GRID = 4, (3, 4, 6)  # latent channels; latent frames, rows, columns
GUIDANCE = 4500.0


def theirs(in_channels: int = CHANNELS, guided: bool = True) -> HunyuanVideoTransformer3DModel:
    torch.manual_seed(3)
    model = HunyuanVideoTransformer3DModel(
        in_channels=in_channels, out_channels=CHANNELS, num_attention_heads=2, attention_head_dim=16, num_layers=2,
        num_single_layers=2, num_refiner_layers=1, text_embed_dim=24, pooled_projection_dim=12,
        rope_axes_dim=(4, 6, 6), guidance_embeds=guided,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def ours(**changes: Any) -> JointTransformer:
    config = TransformerConfig(
        width=32, heads=2, dual_blocks=2, single_blocks=2, rope_axes=(4, 6, 6), video_channels=CHANNELS,
        audio_channels=4, text_channels=32, modulation="per_block",
    )  # fmt: skip
    return JointTransformer(replace(config, **changes))


def run_theirs(model: HunyuanVideoTransformer3DModel, latents: Tensor, t: Tensor, pooled: Tensor, guided: bool = True):
    """Its velocity, and the text tokens that its context embedder made."""
    kept = []
    model.context_embedder.register_forward_hook(lambda module, inputs, out: kept.append(out))
    mask = torch.tensor([[1] * 7, [1, 1, 1, 1, 0, 0, 0]])
    guidance = torch.full((2,), GUIDANCE) if guided else None
    text = torch.randn(2, 7, 24)
    velocity = model(latents, 1000 * (1 - t), text, mask, pooled.expand(2, -1), guidance, return_dict=False)[0]
    return velocity, TextInput(kept[0], mask.bool())


@pytest.mark.parametrize("image_form", [False, True])
@torch.no_grad()
def test_branch_with_taken_over_weights_equals_hunyuan(image_form: bool) -> None:
    torch.manual_seed(5)
    in_channels = 2 * CHANNELS + 1 if image_form else CHANNELS
    source, model = theirs(in_channels), ours()
    pooled, t = torch.randn(12), torch.tensor([0.137, 0.8125])
    latents = torch.randn(2, 2 * CHANNELS + 1, *GRID)
    expected, text = run_theirs(source, latents[:, :in_channels], t, pooled)
    weights = source.state_dict()
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    take_over(model.video, shapes, weights.__getitem__, "memory", pooled, GUIDANCE)

    positions = video_positions(GRID[0], GRID[1] // 2, GRID[2] // 2)
    velocity = model.video(TowerInput(patchify_video(latents), positions, t), text)

    error = unpatchify_video(velocity, GRID) + expected  # theirs points the other way
    assert error.norm() <= 1e-5 * expected.norm()


@torch.no_grad()
def test_a_folder_of_diffusers_gives_the_same_as_the_model_it_came_from(tmp_path: Path) -> None:
    torch.manual_seed(5)
    source, model = theirs(guided=False), ours()
    t, latents = torch.tensor([0.25, 0.75]), torch.randn(2, CHANNELS, *GRID)
    expected, text = run_theirs(source, latents, t, torch.zeros(12), guided=False)
    source.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    init_video_from_hunyuan(model, tmp_path)

    both = torch.cat([latents, torch.randn(2, CHANNELS + 1, *GRID)], dim=1)  # I and M must not be heard
    positions = video_positions(GRID[0], GRID[1] // 2, GRID[2] // 2)
    velocity = unpatchify_video(model.video(TowerInput(patchify_video(both), positions, t), text), GRID)
    assert (velocity + expected).norm() <= 1e-5 * expected.norm()


def test_reversed_time_is_an_exact_rotation_of_the_cosine_sine_pairs() -> None:
    weight = torch.randn(5, 256, dtype=torch.float64)
    frequencies = time_frequencies(torch.device("cpu")).double()
    for s in (0.0, 3.7, 512.0, 1000.0):
        there, here = (1000 - s) * frequencies, s * frequencies
        waves_there, waves_here = (torch.cat([x.cos(), x.sin()]) for x in (there, here))
        assert torch.allclose(weight @ waves_there, reverse_time(weight) @ waves_here, rtol=0, atol=1e-12 * 256)


def test_weights_that_do_not_fit_are_named_and_nothing_is_changed(tmp_path: Path) -> None:
    theirs().save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["proj_out.bias"]
    weights["stranger"] = torch.zeros(1)
    save_file(weights, file)
    model = ours()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(WeightsError) as fault:
        init_video_from_hunyuan(model, tmp_path)
    assert (fault.value.missing, fault.value.extra) == (["proj_out.bias"], ["stranger"])
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"modulation": "shared"}, "modulation"),
        ({"single_blocks": 3}, "single_blocks"),
        ({"rope_axes": (8, 4, 4)}, "rope_axes"),
        ({"video_channels": 5}, "video_channels"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_by_name(tmp_path: Path, changes: dict, named: str) -> None:
    config = dict(theirs().config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"transformer.{named}"):
        init_video_from_hunyuan(ours(**changes), tmp_path)


def test_a_folder_without_a_model_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(Sky4Failure, match="not a HunyuanVideo transformer"):
        init_video_from_hunyuan(ours(), tmp_path)
