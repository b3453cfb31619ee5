"""Training the refiner: what a sample is, the density's ramp, resuming, and a model folder at the end."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sky4.pipeline.model_folder import ModelFolder
from sky4.train.frozen import FitConfig
from sky4.train.frozen_runs import FrozenSettings, train_frozen
from sky4.train.pairs import PairSet
from sky4.train.refiner import RefinerConfig, RefinerProblem


@pytest.fixture(scope="module")
def config(nano_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RefinerConfig:
    return RefinerConfig(
        base=str(nano_model),
        cache=str(tmp_path_factory.mktemp("pairs")),
        shapes=(PairSet(size=32, frames=9, pairs=6),),
        shard=3,
        density=0.4,
        density_every=8,
        keyframes=0.5,
        source=0.5,
        tile=(3, 8, 8),
        overlap=(1, 2, 2),
    )


@pytest.fixture(scope="module")
def problem(config: RefinerConfig) -> RefinerProblem:
    return RefinerProblem(config, say=lambda _: None)


def test_samples_are_windows_with_what_is_known_of_them(problem: RefinerProblem):
    numbers, items = range(24), np.arange(24) % 6
    high, condition = problem.samples(1, numbers, items, problem.pools[0])
    assert high.shape == (24, 16, 5, 8, 8)
    known = condition.keep_mask.expand_as(high) == 1
    assert torch.equal(condition.latents[known], high[known])
    shares = condition.keep_mask.flatten(1).mean(1)
    assert 0 < int((shares == 0).sum()) < 24 and float(shares.max()) < 1


def test_the_loss_of_a_silent_head_is_what_the_regression_leaves(problem: RefinerProblem):
    loss, shown = problem.loss(1, 0, 4)
    assert loss.requires_grad and np.isfinite(shown["loss"]) and shown["interpolation"] > 0
    again, _ = problem.loss(1, 0, 4)
    assert float(again.detach()) == float(loss.detach())


def test_density_falls_in_steps_from_dense(config: RefinerConfig):
    assert [config.density_at(sample) for sample in (0, 7, 8, 16, 800)] == pytest.approx([1.0, 1.0, 0.9, 0.8, 0.4])


def test_a_run_ends_in_a_model_folder_with_its_refiner(config: RefinerConfig, tmp_path: Path):
    network = {
        "base": config.base,
        "cache": config.cache,
        "shapes": [{"size": 32, "frames": 9, "pairs": 6}],
        "shard": 3,
        "tile": [3, 8, 8],
        "overlap": [1, 2, 2],
    }
    fit = FitConfig(samples=8, batch=4, learning_rate=1e-3, warmup=4)
    said: list[str] = []
    assert train_frozen("refiner", FrozenSettings(str(tmp_path / "run"), fit, network), None, said.append)
    folder = ModelFolder.read(tmp_path / "run" / "export")
    assert folder.refiner().density == pytest.approx(1 / 3) and folder.refiner().tile == (3, 8, 8)
    assert (tmp_path / "run" / "export" / "refiner" / "model.safetensors").is_file()
    base = json.loads((Path(config.base) / "model.json").read_text())
    assert "refiner" not in base and ModelFolder.read(Path(config.base)).manifest.refiner is None


def test_pairs_of_another_shape_are_refused(config: RefinerConfig):
    other = {**vars(config), "shapes": (PairSet(size=32, frames=5, pairs=6),)}
    with pytest.raises(Exception, match="choose another network.cache"):
        RefinerProblem(RefinerConfig(**other), say=lambda _: None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frames": 4}, "odd number"),
        ({"density": 0.0}, "above 0"),
        ({"density": 1.5}, "at most 1"),
        ({"shapes": ()}, "at least one shape"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict, words: str):
    with pytest.raises(ValueError, match=words):
        RefinerConfig(base="x", **changes)


def test_pixels_are_enlarged_and_samples_are_crops_of_either_shape(nano_model: Path, tmp_path: Path):
    shapes = (PairSet(size=32, frames=9, pairs=4), PairSet(size=48, frames=5, pairs=4))
    config = RefinerConfig(
        base=str(nano_model), cache=str(tmp_path), shapes=shapes, shard=2, start="pixels", residual=0.25, crops=(4, 6)
    )
    problem = RefinerProblem(config, say=lambda _: None)
    for pool, frames, cells in zip(problem.pools, (5, 3), (8, 12), strict=True):
        assert pool.shape("video") == pool.shape("high") == (16, frames, cells, cells)
        sides = {problem.samples(1, range(at, at + 2), np.arange(2), pool)[0].shape[2:] for at in range(0, 16, 2)}
        assert sides == {(frames, 4, 4), (frames, 6, 6)}
    loss, _ = problem.loss(1, 0, 2)
    assert bool(loss.isfinite())


def test_a_crop_is_one_place_of_the_pair(nano_model: Path, tmp_path: Path):
    shapes = (PairSet(size=32, frames=9, pairs=2),)
    config = RefinerConfig(
        base=str(nano_model), cache=str(tmp_path), shapes=shapes, shard=2, start="pixels", crops=(4,), frames=3
    )
    problem = RefinerProblem(config, say=lambda _: None)
    [pool] = problem.pools
    high, condition = problem.samples(3, range(6), np.arange(6) % 2, pool)
    every, start = pool.read("high", np.arange(2)), pool.read("video", np.arange(2))
    for row in range(6):
        windows = every[row % 2].unfold(1, 3, 1).unfold(2, 4, 1).unfold(3, 4, 1)
        places = (windows.permute(1, 2, 3, 0, 4, 5, 6) == high[row]).flatten(3).all(-1).nonzero().tolist()
        [[frame, top, left]] = places
        mine = start[row % 2][:, frame : frame + 3, top : top + 4, left : left + 4]
        free = condition.keep_mask[row].expand_as(mine) == 0
        assert torch.equal(condition.latents[row][free], mine[free])


def test_a_base_that_is_no_model_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="is no model folder"):
        RefinerProblem(RefinerConfig(base=str(tmp_path), cache=str(tmp_path)))
