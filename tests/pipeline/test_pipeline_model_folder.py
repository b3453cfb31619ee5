"""What a model folder says of itself, against what the codecs themselves say once they are loaded."""

from __future__ import annotations

import inspect
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from sky4.encoders.video_vae import HunyuanCodec, WanCodec
from sky4.errors import RequestError
from sky4.pipeline.components import Components
from sky4.pipeline.devices import choose_device, choose_dtype, physical_cores
from sky4.pipeline.digest import weights_digest, weights_hashes
from sky4.pipeline.model_folder import BUNDLED, ModelFolder, _audio_clock, _video_compression, refiner_beside


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dim_mult": [1, 1, 1], "temperal_downsample": [True, True], "patch_size": 2, "in_channels": 12},
        {"dim_mult": [1, 1, 1], "temperal_downsample": [False, True], "patch_size": 4, "in_channels": 48},
    ],
)
def test_sizes_of_a_wan_codec(settings: dict[str, Any]) -> None:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    with torch.device("meta"):
        vae = AutoencoderKLWan(
            **{"base_dim": 8, "z_dim": 16, **settings, "out_channels": settings.get("in_channels", 3)}
        )
    codec = WanCodec(vae)
    assert _video_compression(dict(vae.config)) == (codec.spatial_compression, codec.temporal_compression)


def test_sizes_of_a_hunyuan_codec() -> None:
    from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo

    with torch.device("meta"):
        codec = HunyuanCodec(AutoencoderKLHunyuanVideo(block_out_channels=(32, 32, 32, 32), layers_per_block=1))
    assert _video_compression(dict(codec.vae.config)) == (codec.spatial_compression, codec.temporal_compression)


def test_sizes_of_audio_codecs() -> None:
    from diffusers.models.autoencoders.autoencoder_mmaudio import MMAudioVAE
    from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck

    with torch.device("meta"):
        oobleck = AutoencoderOobleck(encoder_hidden_size=8, decoder_channels=8, decoder_input_channels=4)
    mmaudio = {name: given.default for name, given in inspect.signature(MMAudioVAE.__init__).parameters.items()}
    config = dict(oobleck.config)
    hop = 1
    for ratio in config["downsampling_ratios"]:
        hop *= ratio
    assert _audio_clock(config) == (config["sampling_rate"], hop)
    assert _audio_clock(mmaudio) == (44100, 1024)  # 218 tokens of 223,256 samples, as published


def test_the_folder_and_the_loaded_parts_agree(nano_model: Path) -> None:
    folder = ModelFolder.read(nano_model)
    components = Components.load(nano_model, "cpu", "float32")
    assert components.video_codec.spatial_compression == folder.spatial_compression == 8
    assert components.video_codec.temporal_compression == folder.temporal_compression == 4
    assert (components.audio_codec.sample_rate, components.audio_codec.hop) == (folder.sample_rate, folder.hop)
    assert components.transformer.config == folder.manifest.transformer


def test_frames_are_rounded_up_to_what_the_codec_makes(nano_model: Path) -> None:
    folder = ModelFolder.read(nano_model)
    made = [folder.geometry(32, 32, frames, Fraction(16)).frames for frames in (1, 2, 5, 6, 80, 81, 82)]
    assert made == [1, 5, 5, 9, 81, 81, 85]


def test_the_digest_changes_with_any_weight_and_with_the_manifest(nano_model: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    shutil.copytree(nano_model, model)
    assert weights_digest(model) == weights_digest(nano_model)
    assert len(weights_hashes(model)) == 4
    file = model / "video_vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    name = min(weights)
    weights[name] = weights[name] + 1
    save_file(weights, file)
    assert weights_digest(model) != weights_digest(nano_model)


def test_an_unknown_entry_of_the_manifest_is_refused_by_its_path(nano_model: Path, tmp_path: Path) -> None:
    values = json.loads((nano_model / "model.json").read_text())
    values["defaults"]["colour"] = "red"
    (tmp_path / "model.json").write_text(json.dumps(values))
    with pytest.raises(RequestError, match=r"model\.json\.defaults\.colour"):
        ModelFolder.read(tmp_path)


def test_a_refiner_may_lie_beside_the_model(refining_model: Path, nano_model: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(nano_model, tmp_path / "mine")
    alone = weights_digest(tmp_path / "mine")
    shutil.copytree(refining_model / "refiner", tmp_path / "mine_refiner")
    assert ModelFolder.read(tmp_path / "mine").manifest.refiner is None  # without its entry it is just a folder
    entry = json.loads((refining_model / "model.json").read_text("utf-8"))["refiner"]
    (tmp_path / "mine_refiner" / "refiner.json").write_text(json.dumps(entry), "utf-8")
    folder = ModelFolder.read(tmp_path / "mine")
    assert folder.refiner().density == 0.5
    assert weights_digest(tmp_path / "mine") != alone
    assert "../mine_refiner/model.safetensors" in weights_hashes(tmp_path / "mine")
    components, inside = Components.load(tmp_path / "mine", "cpu"), Components.load(refining_model, "cpu")
    weights, same = components.refiner.state_dict(), inside.refiner.state_dict()
    assert all(torch.equal(weights[name], same[name]) for name in same)
    (tmp_path / "mine_refiner" / "refiner.json").write_text('{"colour": "red"}', "utf-8")
    with pytest.raises(RequestError, match=r"is no refiner that this sky4 reads: .*refiner\.json\.colour"):
        ModelFolder.read(tmp_path / "mine")


@pytest.mark.skipif(not BUNDLED.is_dir(), reason="no model is bundled in this tree")
def test_the_bundled_model_reads_and_its_defaults_can_be_made() -> None:
    folder = ModelFolder.read(BUNDLED)
    defaults = folder.defaults
    geometry = folder.geometry(defaults.width, defaults.height, defaults.frames, defaults.fps)
    assert geometry.frames == defaults.frames
    assert sum(file.stat().st_size for file in BUNDLED.rglob("*") if file.is_file()) <= 40 * 2**20


@pytest.mark.skipif(refiner_beside(BUNDLED) is None, reason="no refiner is bundled in this tree")
def test_the_bundled_refiner_is_small_and_loads() -> None:
    place = refiner_beside(BUNDLED)
    assert place is not None
    assert sum(file.stat().st_size for file in place.rglob("*") if file.is_file()) <= 15 * 2**20
    components = Components.load(BUNDLED, "cpu", "float32")
    assert components.refiner.config == components.folder.refiner().transformer


def test_devices_and_dtypes_are_named_or_refused() -> None:
    cpu = choose_device("cpu")
    assert cpu == torch.device("cpu")
    assert choose_dtype("fp32", cpu) is torch.float32
    assert choose_dtype("bfloat16", cpu) is torch.bfloat16
    assert choose_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    assert physical_cores() >= 1
    for device in ("tpu", "cuda:x", "cpu:1", f"cuda:{torch.cuda.device_count()}"):
        with pytest.raises(RequestError, match=f"--device {device}"):
            choose_device(device)
    for dtype in ("float8", "float16"):
        with pytest.raises(RequestError, match=f"--dtype {dtype}"):
            choose_dtype(dtype, cpu)
