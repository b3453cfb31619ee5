"""The refiner: a video tower whose attention is sparse."""

from dataclasses import replace

import pytest
import torch

from sky4.conditioning.inpaint import VideoCondition
from sky4.conditioning.refiner import assemble_refiner
from sky4.config import TransformerConfig
from sky4.inputs import TextInput, TowerInput
from sky4.model.checkpoint import load_refiner, save_transformer
from sky4.model.refiner import refiner, refiner_from
from sky4.model.transformer import Branch
from sky4.ops.cubes import video_tiling

CONFIG = TransformerConfig(
    width=64, heads=2, dual_blocks=2, single_blocks=4, rope_axes=(8, 12, 12), video_channels=4, text_channels=8, patch=1
)


@pytest.fixture
def video() -> Branch:
    torch.manual_seed(0)
    tower = Branch(CONFIG, CONFIG.video_in_channels, CONFIG.video_out_channels, reads_text=True)
    with torch.no_grad():
        for weight in tower.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return tower.eval()


def given(density: float, frames: int = 5) -> tuple[TowerInput, TextInput]:
    noisy = torch.randn(2, 4, frames, 8, 8, generator=torch.Generator().manual_seed(1))
    condition = VideoCondition(noisy.flip(0), torch.zeros_like(noisy[:, :1]))
    media = assemble_refiner(noisy, condition, torch.tensor([0.2, 0.7]), density=density, patch=1)
    text = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(2))
    return media, TextInput(text, torch.tensor([[True, True, True], [True, True, False]]))


def with_head(made: Branch, video: Branch) -> Branch:
    made.head.load_state_dict(video.head.state_dict())
    return made.eval()


def test_with_every_cube_read_it_is_the_video_tower(video: Branch):
    media, text = given(1.0)
    dense, sparse = video(media, text), with_head(refiner_from(video), video)(media, text)
    assert torch.allclose(dense, sparse, atol=2e-5)


def test_with_fewer_cubes_it_is_another_function_and_all_of_it_is_trained(video: Branch):
    media, text = given(0.34)
    made = with_head(refiner_from(video), video)
    out = made(media, text)
    assert not torch.allclose(out, video(media, text), atol=1e-3)
    out.square().mean().backward()
    unused = {"keyframe"}  # keyframes lie in I here, not beside the sequence
    assert {name for name, weight in made.named_parameters() if weight.grad is None or not weight.grad.any()} <= unused


@pytest.mark.parametrize("gate", [False, True])
def test_it_starts_by_saying_nothing(gate: bool):
    config = replace(CONFIG, data_gate=gate)
    tower = Branch(config, config.video_in_channels, config.video_out_channels, reads_text=True)
    for weight in tower.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    media, text = given(0.5)
    assert not refiner_from(tower)(media, text).any()


def test_fewer_blocks_are_taken_evenly_of_the_towers(video: Branch):
    made = refiner_from(video, dual_blocks=1, single_blocks=2)
    assert len(made.blocks) == 3
    taken = [0, 2, 5]
    for block, index in zip(made.blocks, taken, strict=True):
        whole = video.blocks[index].state_dict()
        assert all(torch.equal(value, whole[name]) for name, value in block.state_dict().items() if name in whole)


def test_tokens_and_positions_are_in_the_order_of_the_cubes():
    media, _ = given(1.0)
    order = video_tiling((5, 8, 8)).order
    raster = torch.stack(torch.meshgrid(*(torch.arange(n) for n in (5, 8, 8)), indexing="ij"), -1).reshape(-1, 3)
    assert torch.equal(media.positions, raster[order].float())


def test_it_is_saved_and_loaded_strictly(video: Branch, tmp_path):
    save_transformer(refiner_from(video), tmp_path / "refiner")
    loaded = load_refiner(tmp_path / "refiner")
    assert loaded.config == CONFIG
    assert loaded.state_dict().keys() == refiner(CONFIG).state_dict().keys()
