"""A whole model folder in miniature, with random weights: what the pipeline and the CLI are tested on."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.clips import Clips

# before torch starts its pool: the models here are too small to share out
os.environ.setdefault("OMP_NUM_THREADS", "1")

DEFAULTS = {"width": 32, "height": 32, "frames": 9, "fps": "16", "steps": 2, "guidance": 2.0, "audio_guidance": 2.0}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-cases", type=int, default=None, help="So many cases of tests/fuzz, drawn anew.")


@pytest.fixture(autouse=True)
def no_settings_of_the_machine(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults that whoever runs the tests has set (sky4.toml, SKY4_*) are not the tests'."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no-settings"))
    for name in [name for name in os.environ if name.startswith("SKY4_") and name != "SKY4_ISA"]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def nano_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Transformer preset `nano`, a Wan video VAE 8x8x4, an Oobleck audio VAE of hop 1024, a two-layer text model."""
    folder = tmp_path_factory.mktemp("model") / "nano"
    build_nano_model(folder)
    return folder


@pytest.fixture(scope="session")
def refining_model(nano_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nano model with a refiner of random weights, which takes tiles of 4 cells a side."""
    folder = tmp_path_factory.mktemp("model") / "refining"
    shutil.copytree(nano_model, folder)
    add_nano_refiner(folder)
    return folder


def add_nano_refiner(folder: Path) -> None:
    import torch

    from sky4.config import config_to_dict, nano
    from sky4.model.checkpoint import save_transformer
    from sky4.model.refiner import refiner

    torch.manual_seed(1)
    model = refiner(nano())
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    save_transformer(model, folder / "refiner")
    manifest = json.loads((folder / "model.json").read_text("utf-8"))
    manifest["refiner"] = {
        "path": "refiner",
        "transformer": config_to_dict(nano()),
        "steps": 2,
        "density": 0.5,
        "tile": [3, 4, 4],
        "overlap": [1, 2, 2],
    }
    (folder / "model.json").write_text(json.dumps(manifest, indent=1), "utf-8")


def starting_from_pixels(refining: Path, folder: Path, held: bool = False) -> Path:
    """The refining model once more, whose refiner starts from enlarged pixels; held: made clips to what they show."""
    shutil.copytree(refining, folder)
    manifest = json.loads((folder / "model.json").read_text("utf-8"))
    manifest["refiner"] |= {"start": "pixels", "residual": 0.25, "held": held}
    (folder / "model.json").write_text(json.dumps(manifest, indent=1), "utf-8")
    return folder


def build_nano_model(folder: Path) -> None:
    import torch

    from sky4.config import config_to_dict, nano
    from sky4.model.checkpoint import save_transformer
    from sky4.model.transformer import JointTransformer

    folder.mkdir(parents=True)
    torch.manual_seed(0)
    _save_video_vae(folder / "video_vae")
    _save_audio_vae(folder / "audio_vae")
    _save_text_encoder(folder / "text_encoder", nano().text_channels)
    model = JointTransformer(nano())
    for weight in model.parameters():  # also what starts at zero: every part must show in the output
        torch.nn.init.normal_(weight, std=0.05)
    save_transformer(model, folder / "transformer")
    manifest = {
        "format": "sky4-model",
        "version": 1,
        "name": "nano",
        "transformer": config_to_dict(nano()),
        "video_codec": "video_vae",
        "audio_codec": "audio_vae",
        "text_encoder": {"path": "text_encoder", "layer": -1, "max_tokens": 256},
        "defaults": DEFAULTS,
    }
    (folder / "model.json").write_text(json.dumps(manifest, indent=1), "utf-8")


def _save_video_vae(folder: Path) -> None:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=16,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        patch_size=2,
        in_channels=12,
        out_channels=12,
    )
    vae.save_pretrained(folder)


def _save_audio_vae(folder: Path) -> None:
    from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck

    vae = AutoencoderOobleck(
        encoder_hidden_size=128,
        downsampling_ratios=[16, 64],
        channel_multiples=[1, 1],
        decoder_channels=2,
        decoder_input_channels=64,
        audio_channels=2,
        sampling_rate=44100,
    )
    vae.save_pretrained(folder)


def _save_text_encoder(folder: Path, width: int) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import PreTrainedTokenizerFast
    from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

    letters = {letter: index for index, letter in enumerate(["<pad>", *sorted(ByteLevel.alphabet())])}
    tokenizer = Tokenizer(BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>").save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=len(letters),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=width // 2,
        max_position_embeddings=256,
    )
    Qwen3Model(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    """Odd real clips by name, made once a session."""
    return Clips(tmp_path_factory.mktemp("clips"))
