"""The networks that the towers see frozen: their training resumes exactly, and what they export loads."""

from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck
from safetensors.torch import load_file

from sky4.encoders.audio_vae import load_audio_codec
from sky4.train.audio_codec import AudioCodecConfig, AudioCodecProblem, encode_moments
from sky4.train.audio_codec import decode as decode_fast
from sky4.train.audio_codec import export as export_audio
from sky4.train.frozen import FitConfig, fit
from sky4.train.frozen_runs import FrozenSettings, read_frozen_settings, train_frozen
from sky4.train.lapped import mdct_basis
from sky4.train.text_encoder import TextEncoderConfig, TextEncoderProblem
from sky4.train.video_codec import VideoCodecConfig, VideoCodecProblem

CONFIGS = Path(__file__).parents[2] / "python_model" / "sky4" / "train" / "configs"
NETWORK = {"size": 16, "frames": 5, "channels": 4, "encoder_width": 16, "decoder_width": 16, "bf16": False}


def tiny_video() -> VideoCodecProblem:
    return VideoCodecProblem(VideoCodecConfig(**NETWORK))


def quick(samples: int) -> FitConfig:
    return FitConfig(samples=samples, batch=2, learning_rate=1e-3, muon_rate=0.01, warmup=4, log_seconds=0.0)


def test_a_stopped_and_resumed_run_is_the_same_run(tmp_path: Path) -> None:
    whole = tiny_video()
    assert fit(whole, quick(8), tmp_path / "whole", 1.0, lambda line: None)
    assert not fit(tiny_video(), quick(8), tmp_path / "parts", 0.0, lambda line: None)  # a checkpoint of no step
    for _ in range(2):
        again = tiny_video()
        done = fit(again, quick(8), tmp_path / "parts", 1.0, lambda line: None)
    assert done
    for one, other in zip(whole.module.parameters(), again.module.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_loss_falls(tmp_path: Path) -> None:
    problem = tiny_video()
    before = problem.loss(0, 0, 4)[0].item()
    fit(problem, quick(60), tmp_path, 1.0, lambda line: None)
    assert problem.loss(0, 0, 4)[0].item() < 0.8 * before


def test_a_finished_run_exports_and_another_starts_from_it(tmp_path: Path) -> None:
    first = FrozenSettings(str(tmp_path / "a"), quick(2), NETWORK)
    assert train_frozen("video-codec", first, None, lambda line: None)
    assert (tmp_path / "a" / "export" / "config.json").is_file()
    second = FrozenSettings(str(tmp_path / "b"), quick(2), NETWORK, init=str(tmp_path / "a"))
    assert train_frozen("video-codec", second, None, lambda line: None)
    other = FrozenSettings(str(tmp_path / "c"), quick(2), NETWORK | {"encoder_width": 32}, init=str(tmp_path / "a"))
    with pytest.raises(ValueError, match="another shape"):
        train_frozen("video-codec", other, None, lambda line: None)
    with pytest.raises(ValueError, match=r"holds no state\.safetensors"):
        train_frozen("video-codec", FrozenSettings(str(tmp_path / "d"), quick(2), NETWORK, init=str(tmp_path)), None)


@pytest.mark.parametrize("bands", [4, 16])
def test_the_lapped_basis_reconstructs_perfectly(bands: int) -> None:
    wave = torch.randn(1, 1, 40 * bands, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    basis = mdct_basis(bands)[:, None]
    spectrum = torch.nn.functional.conv1d(wave, basis, stride=bands, padding=bands // 2)
    back = torch.nn.functional.conv_transpose1d(spectrum, basis, stride=bands, padding=bands // 2)
    inside = slice(2 * bands, -2 * bands)
    assert torch.allclose(back[..., inside], wave[..., inside], atol=1e-12)


@pytest.fixture(scope="module")
def sound() -> AudioCodecProblem:
    torch.manual_seed(0)
    return AudioCodecProblem(AudioCodecConfig(samples=8192, start_clips=40))


def test_an_untrained_audio_codec_already_carries_the_worlds_sounds(sound: AudioCodecProblem) -> None:
    waves = sound.waves(seed=77, first=0, batch=8)
    with torch.no_grad():
        decoded = decode_fast(sound.codec, encode_moments(sound.codec, waves).chunk(2, 1)[0])
    inside = slice(1024, -1024)
    error = (decoded - waves)[..., inside].square().sum()
    assert float(10 * torch.log10(waves[..., inside].square().sum() / error)) > 8  # dB; silence would score 0


def test_stepping_over_still_units_changes_nothing(sound: AudioCodecProblem, tmp_path: Path) -> None:
    waves = sound.waves(seed=78, first=0, batch=2)
    with torch.no_grad():
        mean = sound.codec.encode(waves).latent_dist.mean
        assert torch.equal(mean, encode_moments(sound.codec, waves).chunk(2, 1)[0])
        assert torch.equal(sound.codec.decode(mean).sample, decode_fast(sound.codec, mean))


def test_an_exported_audio_codec_loads_with_normalised_latents(sound: AudioCodecProblem, tmp_path: Path) -> None:
    export_audio(sound, tmp_path / "audio", clips=24)
    codec = load_audio_codec(tmp_path / "audio")
    latents = codec.encode(sound.waves(seed=79, first=0, batch=8))
    assert latents.shape == (8, 8, 32)
    assert 0.3 < float(latents.std()) < 3  # other sounds than those it was normalised by
    assert isinstance(AutoencoderOobleck.from_pretrained(tmp_path / "audio"), AutoencoderOobleck)


def test_text_encoder_learns_facts(tmp_path: Path) -> None:
    config = TextEncoderConfig(
        vocabulary=400, tokenizer_captions=300, width=64, inner=64, layers=1, heads=1, bf16=False
    )
    problem = TextEncoderProblem(config)
    before = problem.loss(1, 0, 32)[1]["facts"]
    fit(problem, FitConfig(samples=640, batch=32, learning_rate=4e-3, warmup=64), tmp_path, 1.0, lambda line: None)
    assert problem.loss(1, 0, 32)[1]["facts"] < 0.8 * before
    assert "model.language_model.model.language_model.embed_tokens.weight" in load_file(tmp_path / "state.safetensors")


@pytest.mark.parametrize("name", ["video_codec", "video_codec_long", "audio_codec", "text_encoder"])
def test_the_bundled_models_configs_are_read(name: str) -> None:
    settings = read_frozen_settings(CONFIGS / f"tiny_{name}.yaml")
    assert settings.fit.samples > 1000


def test_unknown_keys_are_refused_by_their_path(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("folder: x\nfit: {samples: 10, batch: 2, learning_rate: 0.1, lr: 3}\n")
    with pytest.raises(ValueError, match=r"config\.fit\.lr"):
        read_frozen_settings(path)
