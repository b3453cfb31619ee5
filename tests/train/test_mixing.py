"""The weighted mean of two runs' weights, and what cannot be mixed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sky4.errors import RequestError
from sky4.train.mixing import mix_folders


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    for name, value in (("a", 1.0), ("b", 3.0)):
        (tmp_path / name / "part").mkdir(parents=True)
        weights = {
            "head.weight": torch.full((2, 3), value, dtype=torch.bfloat16),
            "body.weight": torch.full((4,), 10 * value),
            "steps": torch.tensor([int(value)]),
        }
        save_file(weights, tmp_path / name / "part" / "model.safetensors", metadata={"run": name})
        (tmp_path / name / "model.json").write_text(f'{{"name": "{name}"}}')
    return tmp_path / "a", tmp_path / "b"


def test_each_weight_is_the_weighted_mean_and_the_rest_is_the_firsts(runs: tuple[Path, Path], tmp_path: Path) -> None:
    assert mix_folders(*runs, tmp_path / "c", 0.25) == 3
    mixed = load_file(tmp_path / "c" / "part" / "model.safetensors")
    assert torch.equal(mixed["head.weight"], torch.full((2, 3), 1.5, dtype=torch.bfloat16))
    assert torch.equal(mixed["body.weight"], torch.full((4,), 15.0))
    assert mixed["steps"].tolist() == [1]
    assert (tmp_path / "c" / "model.json").read_text() == '{"name": "a"}'
    with safe_open(tmp_path / "c" / "part" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"run": "a"}


def test_some_weights_alone_are_mixed(runs: tuple[Path, Path], tmp_path: Path) -> None:
    assert mix_folders(*runs, tmp_path / "c", 1.0, ["head."]) == 1
    mixed = load_file(tmp_path / "c" / "part" / "model.safetensors")
    assert mixed["head.weight"].unique().tolist() == [3]
    assert mixed["body.weight"].unique().tolist() == [10]


def test_what_cannot_be_mixed_is_refused_and_nothing_is_written(runs: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = runs
    target = tmp_path / "c"
    with pytest.raises(RequestError, match=r"--share 1.5 is no share"):
        mix_folders(first, second, target, 1.5)
    with pytest.raises(RequestError, match="no weight's name begins with tail or toe"):
        mix_folders(first, second, target, 0.5, ["tail", "toe"])
    with pytest.raises(RequestError, match=r"holds no weights \(.safetensors\)"):
        mix_folders(tmp_path / "nowhere", second, target, 0.5)
    with pytest.raises(RequestError, match="already exists; choose another folder or give --force"):
        mix_folders(first, second, second, 0.5)
    save_file({"head.weight": torch.zeros(2, 3)}, second / "part" / "model.safetensors")
    with pytest.raises(RequestError, match="are not of one form: they differ in body.weight"):
        mix_folders(first, second, target, 0.5)
    (second / "part" / "model.safetensors").unlink()
    with pytest.raises(RequestError, match="both folders must hold the same files"):
        mix_folders(first, second, target, 0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
