"""The networks that the towers see frozen: their training resumes exactly, and what they export loads."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck
from safetensors.torch import load_file

from sky4.encoders.audio_vae import load_audio_codec
from sky4.shots.kinds import CONTENTS
from sky4.shots.words import read_switches
from sky4.train.audio_codec import AudioCodecConfig, AudioCodecProblem, encode_moments
from sky4.train.audio_codec import decode as decode_fast
from sky4.train.audio_codec import export as export_audio
from sky4.train.frozen import FitConfig, fit
from sky4.train.frozen_runs import FrozenSettings, read_frozen_settings, train_frozen
from sky4.train.lapped import mdct_basis
from sky4.train.text_encoder import ROW_NAMES, TextEncoderConfig, TextEncoderProblem, write_instructions, write_stories
from sky4.train.text_encoder import export as export_text
from sky4.train.video_codec import VideoCodecConfig, VideoCodecProblem
from sky4.train.video_codec import export as export_video
from sky4.world.scene import Scene

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


def test_a_decoder_that_learns_alone_leaves_every_latent_where_it_was(tmp_path: Path) -> None:
    export_video(tiny_video(), tmp_path / "base", clips=2)
    config = VideoCodecConfig(
        base=str(tmp_path / "base"), frozen_encoder=True, families=0.5, **{**NETWORK, "size": 32, "things_weight": 4.0}
    )
    problem = VideoCodecProblem(config)
    before = {name: value.clone() for name, value in problem.module.state_dict().items()}
    fit(problem, quick(8), tmp_path / "run", 1.0, lambda line: None)
    changed = {name for name, value in problem.module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)
    with pytest.raises(ValueError, match="needs a network.base"):
        VideoCodecProblem(VideoCodecConfig(frozen_encoder=True, **NETWORK))


def test_errors_count_more_where_a_thing_is() -> None:
    problem = VideoCodecProblem(VideoCodecConfig(**{**NETWORK, "size": 32, "families": 0.0, "things_weight": 4.0}))
    weights = problem.weights(*problem.takes(3, 0, 4))
    assert weights is not None and weights.shape == (4, 1, 5, 32, 32)
    scenes, starts = problem.takes(3, 0, 4)
    for scene, start, weight in zip(scenes, starts, weights, strict=True):
        assert isinstance(scene, Scene)
        place = 32 * torch.stack(list(scene.position(torch.tensor(start)))).flip(0) - 0.5  # (y, x)
        near = (weight[0, 0] > 1).nonzero().float()
        assert float(weight.amax()) == 5 and 0.02 < len(near) / 32**2 < 0.5
        assert float((near.mean(0) - place).abs().amax()) < 2


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


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny video codec, as a run exports it."""
    folder = tmp_path_factory.mktemp("base") / "video_vae"
    export_video(tiny_video(), folder, clips=4)
    return folder


def based(base: Path, **more: Any) -> VideoCodecProblem:
    return VideoCodecProblem(VideoCodecConfig(size=16, frames=5, bf16=False, base=str(base), **more))


def test_a_video_codec_goes_on_from_another_one_and_is_held_to_its_latents(base: Path, tmp_path: Path) -> None:
    problem = based(base, families=0.5)
    weights = load_file(base / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(weight, weights[name].float()) for name, weight in problem.codec.state_dict().items())
    assert problem.codec.config.z_dim == 4  # its own shape, not the config's default
    loss, shown = problem.loss(3, 0, 4)
    assert shown["drift"] < 1e-8
    assert torch.isfinite(loss)
    fit(problem, quick(12), tmp_path, 1.0, lambda line: None)
    assert problem.loss(3, 0, 4)[1]["drift"] > 1e-8
    assert problem.anchor is not None
    assert all(torch.equal(weight, weights[name].float()) for name, weight in problem.anchor.state_dict().items())


def test_drift_is_the_distance_in_deviations_of_the_latents(base: Path) -> None:
    problem = based(base)
    deviation = torch.tensor(problem.codec.config.latents_std)
    with torch.no_grad():  # one deviation off in each channel
        problem.codec.quant_conv.bias[:4] += deviation
    assert problem.loss(3, 0, 2)[1]["drift"] == pytest.approx(1.0, rel=1e-3)


def test_drift_needs_plain_scenes_and_the_weight_scales_it(base: Path) -> None:
    assert "drift" not in based(base, families=1.0).loss(3, 0, 2)[1]
    light, heavy = (based(base, anchor_weight=weight) for weight in (1.0, 3.0))
    for problem in (light, heavy):
        with torch.no_grad():
            problem.codec.quant_conv.bias[:4] += 0.5
    (one, shown), (three, _) = light.loss(3, 0, 2), heavy.loss(3, 0, 2)
    assert float((three - one).detach()) == pytest.approx(2 * shown["drift"], rel=1e-3)


def test_a_codec_that_went_on_keeps_its_base_s_normalisation(base: Path, tmp_path: Path) -> None:
    export_video(based(base, families=1.0), tmp_path / "video", clips=2)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (base, tmp_path / "video"))
    assert after["latents_mean"] == before["latents_mean"]
    assert after["latents_std"] == before["latents_std"] != [1.0] * 4


def test_a_batch_of_takes_has_plain_scenes_first(base: Path) -> None:
    problem = based(base, families=0.75)
    assert problem.plain(4) == 1
    [alone] = based(base).pixels(3, 8, 1)
    assert torch.equal(problem.pixels(3, 8, 4)[0], alone)
    assert problem.pixels(3, 8, 4).shape == (4, 3, 5, 16, 16)


def test_a_base_that_is_no_codec_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"network\.base is .*, which holds no video codec"):
        based(tmp_path)
    with pytest.raises(ValueError, match=r"network\.base is .*, which holds no text encoder"):
        TextEncoderProblem(TextEncoderConfig(base=str(tmp_path)))


def test_a_text_encoder_goes_on_from_another_one_and_reads_instructions(tmp_path: Path) -> None:
    small = TextEncoderConfig(vocabulary=400, tokenizer_captions=200, width=64, inner=64, layers=1, heads=1, bf16=False)
    first = TextEncoderProblem(small)
    export_text(first, tmp_path / "base")
    second = TextEncoderProblem(TextEncoderConfig(base=str(tmp_path / "base"), families=0.5, bf16=False))
    assert second.tokenizer.get_vocab() == first.tokenizer.get_vocab()
    loss, shown = second.loss(1, 0, 8)
    assert torch.isfinite(loss)
    assert shown["drift"] < 1e-8
    assert 0 <= shown["rows_right"] <= 1
    fit(second, FitConfig(samples=32, batch=8, learning_rate=4e-3, warmup=8), tmp_path / "run", 1.0, lambda line: None)
    assert second.loss(1, 0, 8)[1]["drift"] > 1e-6


def test_a_text_encoder_reads_stories_and_is_held_to_all_that_it_knew(tmp_path: Path) -> None:
    small = TextEncoderConfig(vocabulary=400, tokenizer_captions=200, width=64, inner=64, layers=1, heads=1, bf16=False)
    export_text(TextEncoderProblem(small), tmp_path / "base")
    shares = {"base": str(tmp_path / "base"), "bf16": False, "families": 0.5, "stories": 0.5}
    loss, shown = TextEncoderProblem(TextEncoderConfig(**shares)).loss(1, 0, 8)
    assert torch.isfinite(loss)
    assert 0 <= shown["transitions_right"] <= 1
    assert "drift" not in shown  # of captions of level 1, of which there are none
    assert "drift" in TextEncoderProblem(TextEncoderConfig(**shares, anchor_families=True)).loss(1, 0, 8)[1]
    with pytest.raises(ValueError, match=r"together at most 1, got 0\.7 and 0\.5"):
        TextEncoderConfig(families=0.7, stories=0.5)


def test_stories_for_the_text_encoder_are_functions_of_their_number() -> None:
    texts, kinds = write_stories(4, 0, 60)
    assert (texts[40:], kinds[40:]) == write_stories(4, 40, 20)
    assert set(kinds) == set(range(len(CONTENTS)))
    for text, kind in zip(texts, kinds, strict=True):
        assert read_switches(text) == (CONTENTS[kind],)


def test_instructions_for_the_text_encoder_are_functions_of_their_number() -> None:
    texts, rows = write_instructions(4, 0, 60)
    assert (texts[40:], rows[40:]) == write_instructions(4, 40, 20)
    assert len(set(texts)) > 55
    assert "take" in rows
    assert set(rows) <= set(ROW_NAMES)


def test_unknown_keys_are_refused_by_their_path(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("folder: x\nfit: {samples: 10, batch: 2, learning_rate: 0.1, lr: 3}\n")
    with pytest.raises(ValueError, match=r"config\.fit\.lr"):
        read_frozen_settings(path)
