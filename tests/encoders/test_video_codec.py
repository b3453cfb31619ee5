import weakref
from pathlib import Path

import pytest
import torch

from sky4.encoders.video_vae import HunyuanCodec, WanCodec, load_video_codec
from sky4.encoders.wan import decode_whole, encode_moments
from sky4.errors import Sky4Failure
from tests.encoders.tiny_models import MEAN, STD, save_hunyuan, save_wan


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> WanCodec:
    codec = load_video_codec(save_wan(tmp_path_factory.mktemp("wan")))
    assert isinstance(codec, WanCodec)
    return codec


@pytest.fixture(scope="module")
def hunyuan(tmp_path_factory: pytest.TempPathFactory) -> HunyuanCodec:
    codec = load_video_codec(save_hunyuan(tmp_path_factory.mktemp("hunyuan")))
    assert isinstance(codec, HunyuanCodec)
    return codec


def clip(frames: int, height: int = 16, width: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(1, 3, frames, height, width, generator=generator) * 2 - 1


def library_latents(codec: WanCodec, latents: torch.Tensor) -> torch.Tensor:
    return latents * torch.tensor(STD).view(1, -1, 1, 1, 1) + torch.tensor(MEAN).view(1, -1, 1, 1, 1)


def test_81_frames_are_21_latent_frames_on_an_eighth_of_the_grid(wan: WanCodec) -> None:
    latents = wan.encode(clip(81))
    assert latents.shape == (1, 4, 21, 2, 3)
    assert (wan.channels, wan.spatial_compression, wan.temporal_compression) == (4, 8, 4)
    assert sum(chunk.shape[2] for chunk in wan.decode(latents)) == 81


def test_encoding_is_the_librarys_mean_normalised(wan: WanCodec) -> None:
    pixels = clip(13)
    mean = wan.vae.encode(pixels).latent_dist.mode()
    torch.testing.assert_close(library_latents(wan, wan.encode(pixels)), mean, rtol=1e-5, atol=1e-5)


def test_decoding_one_latent_frame_at_a_time_is_the_librarys_decoding_bit_for_bit(wan: WanCodec) -> None:
    latents = torch.randn(2, 4, 5, 2, 3)
    chunks = list(WanCodec(wan.vae, 1).decode(latents))
    assert [chunk.shape[2] for chunk in chunks] == [1, 4, 4, 4, 4]
    assert torch.equal(torch.cat(chunks, 2), wan.vae.decode(library_latents(wan, latents)).sample)


@pytest.mark.parametrize("at_once", [2, 3, 99])
def test_longer_chunks_change_nothing_but_rounding(wan: WanCodec, at_once: int) -> None:
    latents = torch.randn(1, 4, 6, 2, 3)
    whole = wan.vae.decode(library_latents(wan, latents)).sample
    chunks = list(WanCodec(wan.vae, at_once).decode(latents))
    assert chunks[0].shape[2] == 1
    assert chunks[1].shape[2] == 4 * min(at_once, 5)
    torch.testing.assert_close(torch.cat(chunks, 2), whole, rtol=0, atol=5e-6)
    pixels = clip(21)
    torch.testing.assert_close(
        WanCodec(wan.vae, at_once).encode(pixels), WanCodec(wan.vae, 1).encode(pixels), rtol=0, atol=5e-6
    )


def test_two_clips_decode_side_by_side(wan: WanCodec) -> None:
    first, second = torch.randn(2, 1, 4, 4, 2, 2)
    codec = WanCodec(wan.vae, 1)
    pairs = list(zip(codec.decode(first), codec.decode(second), strict=True))
    assert torch.equal(torch.cat([pair[0] for pair in pairs], 2), torch.cat(list(codec.decode(first)), 2))
    assert torch.equal(torch.cat([pair[1] for pair in pairs], 2), torch.cat(list(codec.decode(second)), 2))


def test_decoding_computes_a_chunk_when_it_is_asked_for_and_keeps_none(wan: WanCodec) -> None:
    calls = []
    hook = wan.vae.decoder.register_forward_hook(lambda *_: calls.append(1))
    chunks = WanCodec(wan.vae, 1).decode(torch.randn(1, 4, 8, 2, 3))
    assert not calls
    kept = [weakref.ref(next(chunks)) for _ in range(3)]
    hook.remove()
    assert len(calls) == 3
    assert [chunk() for chunk in kept] == [None, None, None]
    assert wan._latent_frames(1088, 1920) == 1


def test_the_callers_gradient_mode_is_left_alone(wan: WanCodec) -> None:
    for chunk in wan.decode(torch.randn(1, 4, 3, 2, 2)):
        assert torch.is_grad_enabled()
        assert not chunk.requires_grad


def test_the_first_latent_frame_depends_on_the_first_frame_only(wan: WanCodec) -> None:
    pixels = clip(9)
    latents = wan.encode(pixels)
    later, first = pixels.clone(), pixels.clone()
    later[:, :, 1:] = -later[:, :, 1:]
    first[:, :, 0] = -first[:, :, 0]
    assert torch.equal(wan.encode(later)[:, :, 0], latents[:, :, 0])
    assert not torch.equal(wan.encode(later)[:, :, 1], latents[:, :, 1])
    assert not torch.equal(wan.encode(first)[:, :, 0], latents[:, :, 0])


def test_training_in_two_calls_has_the_librarys_gradients(wan: WanCodec) -> None:
    vae, pixels = wan.vae, clip(9)
    vae.requires_grad_(True)
    gradients = []
    for whole in (
        lambda: vae.decode(vae.encode(pixels).latent_dist.mode()).sample,
        lambda: decode_whole(vae, encode_moments(vae, pixels)[0]).clamp(-1, 1),
    ):
        vae.zero_grad()
        (whole() - pixels).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in vae.parameters()])
    vae.requires_grad_(False)
    vae.zero_grad()
    for expected, got in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-6)


def test_a_black_clip_is_encoded_once_per_size(wan: WanCodec) -> None:
    black = wan.black(5, 16, 24)
    assert torch.equal(black, wan.encode(torch.full((1, 3, 5, 16, 24), -1.0)))
    assert wan.black(5, 16, 24) is black
    assert wan.black(1, 16, 24).shape == (1, 4, 1, 2, 3)


def test_the_2_2_form_compresses_by_sixteen(tmp_path: Path) -> None:
    folder = save_wan(tmp_path, dim_mult=[1, 2, 4, 4], temperal_downsample=[False, True, True], is_residual=True)
    codec = load_video_codec(folder)
    assert isinstance(codec, WanCodec)
    assert codec.spatial_compression == 16
    latents = codec.encode(clip(13, 32, 48))
    assert latents.shape == (1, 4, 4, 2, 3)
    whole = codec.vae.decode(library_latents(codec, latents)).sample
    torch.testing.assert_close(torch.cat(list(codec.decode(latents)), 2), whole, rtol=0, atol=5e-6)


def test_bfloat16_weights_give_float32_close_to_float32(wan: WanCodec, tmp_path: Path) -> None:
    half = load_video_codec(save_wan(tmp_path), dtype=torch.bfloat16)
    pixels = clip(9)
    latents = half.encode(pixels)
    assert latents.dtype == torch.float32
    assert float((latents - wan.encode(pixels)).abs().max()) < 0.1
    assert all(chunk.dtype == torch.float32 for chunk in half.decode(latents))


@pytest.mark.parametrize("latent_frames", [1, 2, 4, 5, 7, 9])
def test_hunyuan_tiles_stream_the_librarys_decoding_bit_for_bit(hunyuan: HunyuanCodec, latent_frames: int) -> None:
    latents = torch.randn(1, 4, latent_frames, 2, 2)
    whole = hunyuan.vae.decode(latents / hunyuan.vae.config.scaling_factor).sample.clamp(-1, 1)
    chunks = list(hunyuan.decode(latents))
    assert torch.equal(torch.cat(chunks, 2), whole)
    assert max(chunk.shape[2] for chunk in chunks) <= 13


def test_hunyuan_tiles_large_pictures_in_space_too(hunyuan: HunyuanCodec) -> None:
    latents = torch.randn(1, 4, 1, 2, 34)  # 272 pixels wide
    whole = hunyuan.vae.decode(latents / hunyuan.vae.config.scaling_factor).sample.clamp(-1, 1)
    assert whole.shape[-1] == 272
    assert torch.equal(torch.cat(list(hunyuan.decode(latents)), 2), whole)


def test_hunyuan_latents_are_scaled_by_the_config(hunyuan: HunyuanCodec) -> None:
    pixels = clip(17, 16, 16)
    expected = hunyuan.vae.encode(pixels).latent_dist.mode() * hunyuan.vae.config.scaling_factor
    assert torch.equal(hunyuan.encode(pixels), expected)
    assert hunyuan.encode(pixels).shape == (1, 4, 5, 2, 2)


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((1, 3, 8, 16, 16), "4k \\+ 1 for this video codec, got 8; nearest: 5 or 9"),
        ((1, 3, 9, 20, 16), "height must be a multiple of 8 for this video codec, got 20; nearest: 16 or 24"),
        ((1, 3, 9, 16, 4), "width must be a multiple of 8 for this video codec, got 4; nearest: 8 or 16"),
        ((1, 1, 9, 16, 16), "pixels must be \\[B, 3, F, H, W\\]"),
    ],
)
def test_sizes_the_codec_cannot_make_name_the_nearest(wan: WanCodec, shape: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        wan.encode(torch.zeros(shape))


def test_latents_of_another_codec_are_refused_before_the_first_chunk(wan: WanCodec) -> None:
    with pytest.raises(ValueError, match=r"latents must be \[B, 4, T, h, w\], got \[1, 16, 2, 2, 2\]"):
        wan.decode(torch.zeros(1, 16, 2, 2, 2))


def test_statistics_must_count_as_many_as_the_channels(tmp_path: Path) -> None:
    with pytest.raises(Sky4Failure, match="gives 16 values of latents_std for 4 latent channels"):
        load_video_codec(save_wan(tmp_path, latents_std=[1.0] * 16))
