"""Weights on disk: exact, strict, sharded, whole or not there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sky4.config import nano
from sky4.errors import Sky4Failure
from sky4.model.checkpoint import WeightsError, load_transformer, save_transformer
from sky4.model.transformer import JointTransformer

from .conftest import alive


@pytest.fixture
def model() -> JointTransformer:
    return alive(nano())


def test_weights_come_back_bit_for_bit(model: JointTransformer, tmp_path: Path) -> None:
    save_transformer(model, tmp_path / "t")
    loaded = load_transformer(tmp_path / "t")
    assert loaded.config == model.config and not loaded.training
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_the_dtype_is_the_one_asked_for(model: JointTransformer, tmp_path: Path) -> None:
    save_transformer(model, tmp_path / "t", torch.bfloat16)
    assert {w.dtype for w in load_transformer(tmp_path / "t").state_dict().values()} == {torch.bfloat16}
    wide = load_transformer(tmp_path / "t", dtype=torch.float32)
    assert {w.dtype for w in wide.state_dict().values()} == {torch.float32}


def test_large_weights_are_sharded_with_an_index(model: JointTransformer, tmp_path: Path) -> None:
    save_transformer(model, tmp_path / "t", shard_bytes=300_000)
    files = sorted(path.name for path in (tmp_path / "t").glob("*.safetensors"))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / "t" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == model.state_dict().keys()
    assert index["metadata"]["total_size"] == sum(p.numel() * 4 for p in model.parameters())
    loaded = load_transformer(tmp_path / "t").state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in model.state_dict().items())


def test_saving_again_replaces_everything_and_leaves_nothing_beside(model: JointTransformer, tmp_path: Path) -> None:
    save_transformer(model, tmp_path / "t", shard_bytes=300_000)
    save_transformer(model, tmp_path / "t")
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == ["config.json", "model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_a_save_that_fails_leaves_the_old_weights(
    model: JointTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_transformer(model, tmp_path / "t")

    def full_disk(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sky4.model.checkpoint.save_file", full_disk)
    with pytest.raises(Sky4Failure, match="No space left on device"):
        save_transformer(JointTransformer(nano()), tmp_path / "t")
    loaded = load_transformer(tmp_path / "t").state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in model.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_missing_extra_and_misshaped_weights_are_listed(model: JointTransformer, tmp_path: Path) -> None:
    save_transformer(model, tmp_path / "t")
    file = tmp_path / "t" / "model.safetensors"
    weights = load_file(file)
    weights.pop("video.head.bias")
    weights["video.tail.bias"] = torch.zeros(3)
    weights["audio.keyframe"] = torch.zeros(63)
    save_file(weights, file)
    with pytest.raises(WeightsError) as fault:
        load_transformer(tmp_path / "t")
    assert fault.value.missing == ["video.head.bias"]
    assert fault.value.extra == ["video.tail.bias"]
    assert fault.value.misshaped == ["audio.keyframe [63] instead of [64]"]
    for name in ("video.head.bias", "video.tail.bias", "audio.keyframe"):
        assert name in str(fault.value)


def test_a_folder_that_is_not_one_is_a_failure(model: JointTransformer, tmp_path: Path) -> None:
    with pytest.raises(Sky4Failure, match=r"config\.json cannot be read"):
        load_transformer(tmp_path / "nowhere")
    save_transformer(model, tmp_path / "t")
    (tmp_path / "t" / "model.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(Sky4Failure, match="cannot read the weights"):
        load_transformer(tmp_path / "t")
    (tmp_path / "t" / "model.safetensors").unlink()
    with pytest.raises(Sky4Failure, match="holds no weights"):
        load_transformer(tmp_path / "t")
    (tmp_path / "t" / "config.json").write_text('{"width": 64, "depth": 3}')
    with pytest.raises(Sky4Failure, match="unknown setting transformer.depth"):
        load_transformer(tmp_path / "t")


def test_a_configuration_that_is_not_the_folders_is_a_failure(model: JointTransformer, tmp_path: Path) -> None:
    save_transformer(model, tmp_path / "t")
    assert load_transformer(tmp_path / "t", config=nano()).config == nano()
    with pytest.raises(Sky4Failure, match="another transformer"):
        load_transformer(tmp_path / "t", config=replace(nano(), rope_theta=100.0))
