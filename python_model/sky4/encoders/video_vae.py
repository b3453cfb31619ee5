"""Video codecs: `diffusers.AutoencoderKLWan` (2.1, 2.2 and small forms) and `AutoencoderKLHunyuanVideo`.

Both are causal in time: the first latent frame is the first pixel frame, every further one is the next r frames
(r = temporal_compression). Latents are normalised by the config: per channel by latents_mean and latents_std (Wan), by
one scaling_factor (HunyuanVideo).

    B batch   F pixel frames   H W pixels   T latent frames   h w latent grid   C latent channels
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sky4.encoders.folder import find_folder, load_diffusers, read_config, single_modules
from sky4.encoders.protocols import TiledCodec, VideoCodec
from sky4.encoders.tiling import WHOLE, Tiling, decode_tiles
from sky4.encoders.wan import decode_chunks, encode_moments
from sky4.errors import RequestError, Sky4Failure

# Pixels of one chunk, all its frames together: 2^20 is one latent frame at 480 x 832 and a second of film at 256 x 256,
# which keeps a decoder of 96 full-size channels under half a gigabyte per tensor in float32.
CHUNK_PIXELS = 2**20
TILE_SIDES = (512, 256, 128)  # pixels, for a memory that whole frames do not fit into
CHUNK_LATENT_FRAMES = 8  # longer chunks gain nothing measurable and make the progress coarse


def load_video_codec(path: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> TiledCodec:
    """The frozen codec of a folder or hub name in diffusers' format.

    Raises RequestError where that is no video codec, Sky4Failure where its weights do not fit its config.
    """
    folder = find_folder(path, "a video codec")
    name = read_config(folder, "a video codec").get("_class_name")
    if name == "AutoencoderKLWan":
        with single_modules():
            from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
        return WanCodec(load_diffusers(AutoencoderKLWan, folder, device, dtype))
    if name == "AutoencoderKLHunyuanVideo":
        with single_modules():
            from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo
        return HunyuanCodec(load_diffusers(AutoencoderKLHunyuanVideo, folder, device, dtype))
    raise RequestError(
        f"{folder} is not a video codec: its config.json says _class_name {name!r}; "
        "give a folder of AutoencoderKLWan or AutoencoderKLHunyuanVideo"
    )


class WanCodec:
    """`AutoencoderKLWan`, decoded and encoded in chunks of latent frames with the causal feature cache kept between."""

    def __init__(self, vae: Any, chunk_latent_frames: int | None = None):
        config = vae.config
        self.vae = vae
        self.channels = int(config.z_dim)
        self.spatial_compression = (config.patch_size or 1) * 2 ** (len(config.dim_mult) - 1)
        self.temporal_compression = 2 ** sum(config.temperal_downsample)
        self._chunk = chunk_latent_frames
        for key in ("latents_mean", "latents_std"):
            if len(config[key]) != self.channels:
                raise Sky4Failure(
                    f"the video codec's config.json gives {len(config[key])} values of {key} for {self.channels} "
                    "latent channels; give one value per channel"
                )
        self._mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1, 1)
        self._std = torch.tensor(config.latents_std).view(1, -1, 1, 1, 1)
        self._black: dict[tuple[int, int, int], Tensor] = {}

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        check_pixels(self, pixels)
        height, width = pixels.shape[-2:]
        mean, _ = encode_moments(self.vae, _onto(self.vae, pixels), self._latent_frames(height, width))
        return (mean.float() - self._mean.to(mean.device)) / self._std.to(mean.device)

    def decode(self, latents: Tensor, tiling: Tiling = WHOLE) -> Iterator[Tensor]:
        check_latents(self, latents)
        if tiling.side is None:
            return self._decoded(latents, tiling.latent_frames)
        frames = (latents.shape[2] - 1) * self.temporal_compression + 1
        return decode_tiles(
            latents,
            tiling.side,
            (frames, self.spatial_compression),
            lambda tile: self._decoded(tile, tiling.latent_frames),
        )

    def _decoded(self, latents: Tensor, latent_frames: int | None = None) -> Iterator[Tensor]:
        height, width = (size * self.spatial_compression for size in latents.shape[-2:])
        latents = latents.float().to(self.vae.device)
        latents = (latents * self._std.to(latents.device) + self._mean.to(latents.device)).to(self.vae.dtype)
        chunks = decode_chunks(self.vae, latents, latent_frames or self._latent_frames(height, width))
        while True:
            with torch.no_grad():  # around each chunk, not around the yield: the caller's mode is the caller's
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk.float().clamp(-1, 1)

    def ladder(self, latents: Tensor) -> tuple[Tiling, ...]:
        height, width = (size * self.spatial_compression for size in latents.shape[-2:])
        one = (Tiling(1),) if self._latent_frames(height, width) > 1 else ()
        return WHOLE, *one, *(Tiling(1, side) for side in TILE_SIDES if side < max(height, width))

    def black(self, frames: int, height: int, width: int) -> Tensor:
        return _black(self, self._black, frames, height, width)

    def to(self, device: str) -> WanCodec:
        self.vae.to(device)
        return self

    def _latent_frames(self, height: int, width: int) -> int:
        if self._chunk is not None:
            return self._chunk
        fitting = CHUNK_PIXELS // (height * width * self.temporal_compression)
        return max(1, min(CHUNK_LATENT_FRAMES, fitting))


class HunyuanCodec:
    """`AutoencoderKLHunyuanVideo`, in the library's own overlapping tiles, which this class streams.

    In time, tiles of 4 + 1 latent frames every 3, blended over 4 pixel frames; in space, tiles of 256 pixels every 192
    for anything larger than 256. The chunks together equal `vae.decode` bit for bit.
    """

    def __init__(self, vae: Any):
        vae.enable_tiling()
        self.vae = vae
        self._own_side = int(vae.tile_sample_min_height)
        self.channels = int(vae.config.latent_channels)
        self.spatial_compression = int(vae.config.spatial_compression_ratio)
        self.temporal_compression = int(vae.config.temporal_compression_ratio)
        self._black: dict[tuple[int, int, int], Tensor] = {}

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        check_pixels(self, pixels)
        mean = self.vae.encode(_onto(self.vae, pixels)).latent_dist.mode()
        return mean.float() * self.vae.config.scaling_factor

    def decode(self, latents: Tensor, tiling: Tiling = WHOLE) -> Iterator[Tensor]:
        check_latents(self, latents)
        return self._decoded(latents, self._own_side if tiling.side is None else tiling.side)

    def ladder(self, latents: Tensor) -> tuple[Tiling, ...]:
        longest = max(latents.shape[-2:]) * self.spatial_compression
        smaller = (self._own_side // 2, self._own_side // 4)
        return WHOLE, *(Tiling(side=side) for side in smaller if side < longest)

    def _decoded(self, latents: Tensor, side: int) -> Iterator[Tensor]:
        vae = self.vae
        latents = _onto(vae, latents.float() / vae.config.scaling_factor)
        span = vae.tile_sample_min_num_frames // self.temporal_compression
        if latents.shape[2] <= span:  # the library decodes a clip this short in one piece
            yield self._tile(latents, side).float().clamp(-1, 1)
            return
        stride = vae.tile_sample_stride_num_frames
        left = (latents.shape[2] - 1) * self.temporal_compression + 1
        before: Tensor | None = None
        for start in range(0, latents.shape[2], stride // self.temporal_compression):
            tile = self._tile(latents[:, :, start : start + span + 1], side)
            if before is None:
                frames = stride + 1  # the first tile keeps the frame that stands alone
            else:
                tile = vae.blend_t(before, tile[:, :, 1:], vae.tile_sample_min_num_frames - stride)
                frames = stride
            chunk = tile[:, :, : min(frames, left)]
            if chunk.shape[2]:
                yield chunk.float().clamp(-1, 1)
            left -= chunk.shape[2]
            before = tile

    @torch.no_grad()
    def _tile(self, latents: Tensor, side: int) -> Tensor:
        vae = self.vae
        vae.tile_sample_min_height = vae.tile_sample_min_width = side  # the library reads both from the module
        vae.tile_sample_stride_height = vae.tile_sample_stride_width = side * 3 // 4
        if max(latents.shape[-2:]) * self.spatial_compression > vae.tile_sample_min_height:
            tile: Tensor = vae.tiled_decode(latents, return_dict=False)[0]
            return tile
        decoded: Tensor = vae.decoder(vae.post_quant_conv(latents))
        return decoded

    def black(self, frames: int, height: int, width: int) -> Tensor:
        return _black(self, self._black, frames, height, width)

    def to(self, device: str) -> HunyuanCodec:
        self.vae.to(device)
        return self


def check_pixels(codec: VideoCodec, pixels: Tensor) -> None:
    """Raise ValueError where the codec cannot encode pixels of this shape, with the nearest it can."""
    if pixels.ndim != 5 or pixels.shape[1] != 3:
        raise ValueError(f"pixels must be [B, 3, F, H, W], got {list(pixels.shape)}")
    frames, *sizes = pixels.shape[2:]
    rate, step = codec.temporal_compression, codec.spatial_compression
    if frames % rate != 1 % rate:
        below = frames - (frames - 1) % rate
        raise ValueError(
            f"the number of frames must be {rate}k + 1 for this video codec, got {frames}; nearest: "
            f"{below} or {below + rate}"
        )
    for name, size in zip(("height", "width"), sizes, strict=True):
        if size % step or not size:
            below = max(step, size - size % step)
            raise ValueError(
                f"the {name} must be a multiple of {step} for this video codec, got {size}; nearest: "
                f"{below} or {below + step}"
            )


def check_latents(codec: VideoCodec, latents: Tensor) -> None:
    """Raise ValueError where latents are not this codec's."""
    if latents.ndim != 5 or latents.shape[1] != codec.channels or not latents.shape[2]:
        raise ValueError(f"latents must be [B, {codec.channels}, T, h, w], got {list(latents.shape)}")


def _black(
    codec: VideoCodec, known: dict[tuple[int, int, int], Tensor], frames: int, height: int, width: int
) -> Tensor:
    size = (frames, height, width)
    if size not in known:
        known[size] = codec.encode(torch.full((1, 1, 1, 1, 1), -1.0).expand(1, 3, *size))
    return known[size]


def _onto(vae: Any, values: Tensor) -> Tensor:
    return values.to(vae.device, vae.dtype)
