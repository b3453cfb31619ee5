from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sky4.encoders import load_audio_codec, load_text_encoder, load_video_codec
from sky4.errors import RequestError, Sky4Failure
from tests.encoders.tiny_models import save_oobleck, save_qwen3_vl, save_wan

LOADERS = (load_video_codec, load_audio_codec, load_text_encoder)
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("load", LOADERS)
def test_what_is_not_there_is_a_bad_request(load, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="there is no folder .*nowhere .*check the path"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("load", LOADERS)
def test_a_file_and_an_empty_folder_are_no_model(load, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="holds no config.json"):
        load(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(RequestError, match="is a file, not a folder"):
        load(tmp_path / "model.bin")


@pytest.mark.parametrize("load", LOADERS)
def test_a_config_that_is_no_json_is_a_failure(load, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(Sky4Failure, match="cannot be read as JSON"):
        load(tmp_path)


def test_the_class_comes_from_the_folder(tmp_path: Path) -> None:
    save_oobleck(tmp_path)
    with pytest.raises(RequestError, match="not a video codec: .* 'AutoencoderOobleck'; give a folder of"):
        load_video_codec(tmp_path)
    with pytest.raises(RequestError, match="not a text encoder: transformers knows no model type None"):
        load_text_encoder(tmp_path)
    save_wan(tmp_path)
    with pytest.raises(RequestError, match="not an audio codec: .* 'AutoencoderKLWan'; give a folder of"):
        load_audio_codec(tmp_path)


def test_missing_and_extra_weights_are_listed(tmp_path: Path) -> None:
    save_wan(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    del weights["decoder.conv_in.bias"]
    weights["decoder.conv_in.tail"] = torch.zeros(1)
    save_file(weights, tmp_path / WEIGHTS, {"format": "pt"})
    with pytest.raises(Sky4Failure, match="missing decoder.conv_in.bias; extra decoder.conv_in.tail; fetch"):
        load_video_codec(tmp_path)


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    save_wan(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    weights["decoder.conv_in.bias"] = torch.zeros(3)
    save_file(weights, tmp_path / WEIGHTS, {"format": "pt"})
    with pytest.raises(Sky4Failure, match="cannot be loaded .*decoder.conv_in.bias"):
        load_video_codec(tmp_path)


def test_missing_and_extra_weights_of_a_text_encoder_are_listed(tmp_path: Path) -> None:
    path = save_qwen3_vl(tmp_path) / "model.safetensors"
    weights = load_file(path)
    gone = next(name for name in weights if name.endswith("layers.1.mlp.up_proj.weight"))
    weights["model.spare"] = weights.pop(gone)
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(Sky4Failure, match=r"missing \S*layers.1.mlp.up_proj.weight; extra \S*spare"):
        load_text_encoder(tmp_path)


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    save_wan(tmp_path)
    torch.save(load_file(tmp_path / WEIGHTS), tmp_path / "diffusion_pytorch_model.bin")
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(Sky4Failure, match="again as safetensors"):
        load_video_codec(tmp_path)


def test_a_cut_file_of_weights_is_a_failure(tmp_path: Path) -> None:
    save_wan(tmp_path)
    content = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(Sky4Failure, match="cannot be loaded"):
        load_video_codec(tmp_path)


def test_a_hub_name_fetches_one_part_and_no_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[tuple[str, list[str]]] = []

    def fetch(repository: str, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    save_wan(tmp_path / "vae")
    assert load_video_codec("some-owner/Some-Model.1/vae").channels == 4
    repository, patterns = asked[0]
    assert repository == "some-owner/Some-Model.1"
    assert "vae/*.safetensors" in patterns
    assert not any(pattern.endswith((".bin", ".pt", "*")) for pattern in patterns)
    with pytest.raises(RequestError, match="has no folder else"):
        load_video_codec("some-owner/Some-Model.1/else")


def test_a_hub_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fetch(repository: str, allow_patterns: list[str]) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(RequestError, match="the hub does not give it .*or give a local folder"):
        load_text_encoder("some-owner/some-model")
