import math
from pathlib import Path

import pytest
import torch
from torch import nn

from sky4.encoders.audio_vae import MMAudioCodec, OobleckCodec, decoder_reach, load_audio_codec
from sky4.errors import RequestError, Sky4Failure
from tests.encoders.tiny_models import MEAN, STD, save_mmaudio, save_oobleck

FIVE_SECONDS = 223_256


@pytest.fixture(scope="module")
def oobleck(tmp_path_factory: pytest.TempPathFactory) -> OobleckCodec:
    codec = load_audio_codec(save_oobleck(tmp_path_factory.mktemp("oobleck")))
    assert isinstance(codec, OobleckCodec)
    return codec


@pytest.fixture(scope="module")
def mmaudio(tmp_path_factory: pytest.TempPathFactory) -> MMAudioCodec:
    codec = load_audio_codec(save_mmaudio(tmp_path_factory.mktemp("mmaudio") / "audio_vae"))
    assert isinstance(codec, MMAudioCodec)
    return codec


def sound(samples: int, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 2, samples, generator=torch.Generator().manual_seed(samples)) - 0.5


def test_five_seconds_are_218_tokens(oobleck: OobleckCodec) -> None:
    assert (oobleck.channels, oobleck.sample_rate, oobleck.hop) == (4, 44100, 1024)
    latents = oobleck.encode(sound(FIVE_SECONDS))
    assert latents.shape == (1, 218, 4)
    assert oobleck.decode(latents, FIVE_SECONDS).shape == (1, 2, FIVE_SECONDS)


def test_encoding_is_the_librarys_mean_normalised(oobleck: OobleckCodec) -> None:
    wave = sound(4096, batch=2)
    mean = oobleck.vae.encode(wave).latent_dist.mode().transpose(1, 2)
    torch.testing.assert_close(oobleck.encode(wave) * torch.tensor(STD) + torch.tensor(MEAN), mean)


def test_decoding_undoes_the_normalisation_and_is_silent_after_the_last_hop(oobleck: OobleckCodec) -> None:
    latents = torch.randn(2, 3, 4)
    raw = (latents * torch.tensor(STD) + torch.tensor(MEAN)).transpose(1, 2)
    wave = oobleck.decode(latents, 3 * 1024 + 24)
    torch.testing.assert_close(wave[..., : 3 * 1024], oobleck.vae.decode(raw).sample.clamp(-1, 1))
    assert not wave[..., 3 * 1024 :].any()


def test_without_statistics_latents_stay_as_they_are(tmp_path: Path) -> None:
    codec = load_audio_codec(save_oobleck(tmp_path, statistics=False))
    assert isinstance(codec, OobleckCodec)
    wave = sound(4096)
    assert torch.equal(codec.encode(wave), codec.vae.encode(wave).latent_dist.mode().transpose(1, 2))


@pytest.mark.parametrize("chunk", [1, 7, 20])
def test_decoding_in_chunks_equals_decoding_whole(oobleck: OobleckCodec, chunk: int) -> None:
    latents = torch.randn(1, 40, 4)
    chunked = OobleckCodec(oobleck.vae, oobleck._mean, oobleck._std, chunk)
    samples = 40 * 1024
    torch.testing.assert_close(chunked.decode(latents, samples), oobleck.decode(latents, samples), rtol=0, atol=1e-6)


@pytest.mark.parametrize("ratios", [(16, 64), (4, 4, 8, 8), (2, 4, 4, 8, 8), (1024,)])
def test_the_reach_of_the_decoder_is_its_gradients_reach(ratios: tuple[int, ...], tmp_path: Path) -> None:
    codec = load_audio_codec(save_oobleck(tmp_path, ratios=ratios))
    assert isinstance(codec, OobleckCodec)
    decoder = codec.vae.decoder
    for unit in decoder.modules():  # positive weights, so that no two paths cancel
        if isinstance(unit, nn.Conv1d | nn.ConvTranspose1d):
            unit.weight_v.data.abs_()
            unit.weight_g.data.fill_(1.0)
        elif hasattr(unit, "alpha"):
            unit.alpha.data.fill_(-50.0)  # x + sin^2(ax)/b: next to the identity
    reach = decoder_reach(ratios)
    middle, hop = reach + 1, math.prod(ratios)
    latents = torch.zeros(1, 4, 2 * middle + 1, dtype=torch.float64, requires_grad=True)
    decoder.double()(latents)[..., middle * hop : (middle + 1) * hop].sum().backward()
    assert latents.grad is not None
    touched = latents.grad[0].ne(0).any(0).nonzero().flatten() - middle
    assert touched.min() >= -reach
    assert touched.max() <= reach
    assert touched.max() >= reach - 1  # the formula's rounding up costs one latent at the most


def test_idle_units_are_taken_out_and_nothing_changes(tmp_path: Path) -> None:
    codec = load_audio_codec(save_oobleck(tmp_path))
    assert isinstance(codec, OobleckCodec)
    wave = sound(8192)
    for block in (codec.vae.encoder.block[0], codec.vae.decoder.block[-1]):
        for unit in (block.res_unit1, block.res_unit2, block.res_unit3):
            unit.conv2.weight_g.zero_()
            unit.conv2.bias.zero_()
    latents = codec.encode(wave)
    decoded = codec.decode(latents, 8192)
    lean = OobleckCodec(codec.vae, codec._mean, codec._std)
    assert isinstance(codec.vae.decoder.block[-1].res_unit3, nn.Identity)
    assert not isinstance(codec.vae.decoder.block[0].res_unit1, nn.Identity)
    assert torch.equal(lean.encode(wave), latents)
    assert torch.equal(lean.decode(latents, 8192), decoded)


def test_mmaudio_codes_left_and_right_side_by_side(mmaudio: MMAudioCodec) -> None:
    assert (mmaudio.channels, mmaudio.sample_rate, mmaudio.hop) == (8, 44100, 1024)
    assert mmaudio.encode(sound(FIVE_SECONDS)).shape == (1, 218, 8)
    wave = sound(5 * 1024 + 100, batch=2)
    latents = mmaudio.encode(wave)
    assert latents.shape == (2, 5, 8)
    for side in (0, 1):
        mono = mmaudio.vae.encode(wave[:, side]).latent_dist.mode()[..., :5].transpose(1, 2)
        torch.testing.assert_close(latents[..., 4 * side : 4 * side + 4], mono * 0.417, rtol=1e-4, atol=1e-5)


def test_mmaudio_decodes_each_side_from_its_own_channels(mmaudio: MMAudioCodec) -> None:
    latents = torch.randn(2, 5, 8)
    wave = mmaudio.decode(latents, 5 * 1024 + 100)
    assert wave.shape == (2, 2, 5 * 1024 + 100)
    right = mmaudio.vocoder(mmaudio.vae.decode(latents[..., 4:].transpose(1, 2) / 0.417).sample).sample[:, 0]
    torch.testing.assert_close(wave[:, 1, : 5 * 1024], right, rtol=1e-4, atol=1e-5)


def test_mmaudio_in_bfloat16_takes_its_mel_in_float32(mmaudio: MMAudioCodec, tmp_path: Path) -> None:
    half = load_audio_codec(save_mmaudio(tmp_path / "audio_vae"), dtype=torch.bfloat16)
    wave = sound(4096)
    torch.testing.assert_close(half.encode(wave), mmaudio.encode(wave), rtol=0.1, atol=0.05)
    assert half.decode(half.encode(wave), 4096).dtype == torch.float32


def test_mmaudio_without_its_vocoder_says_where_to_put_it(tmp_path: Path) -> None:
    folder = save_mmaudio(tmp_path / "audio_vae")
    (tmp_path / "vocoder").rename(tmp_path / "elsewhere")
    with pytest.raises(RequestError, match="needs its vocoder; put its folder beside it as 'vocoder'"):
        load_audio_codec(folder)
    assert load_audio_codec(folder, vocoder=tmp_path / "elsewhere").channels == 8


def test_statistics_must_count_as_many_as_the_channels(tmp_path: Path) -> None:
    save_oobleck(tmp_path)
    (tmp_path / "sky4.json").write_text('{"latents_mean": [0, 0], "latents_std": [1, 1]}')
    with pytest.raises(Sky4Failure, match="must give latents_mean as a list of 4 numbers"):
        load_audio_codec(tmp_path)


def test_waves_and_lengths_that_do_not_fit_are_refused(oobleck: OobleckCodec) -> None:
    with pytest.raises(ValueError, match=r"a wave must be \[B, 2, S\], stereo, got \[1, 1, 4096\]"):
        oobleck.encode(torch.zeros(1, 1, 4096))
    with pytest.raises(ValueError, match="at least 1024 samples for this audio codec, got 1000"):
        oobleck.encode(torch.zeros(1, 2, 1000))
    with pytest.raises(ValueError, match=r"audio latents must be \[B, T_a, 4\], got \[1, 2, 64\]"):
        oobleck.decode(torch.zeros(1, 2, 64), 2048)
    with pytest.raises(ValueError, match="2 audio latents are 2048 to 3071 samples, got samples=3072"):
        oobleck.decode(torch.zeros(1, 2, 4), 3072)
