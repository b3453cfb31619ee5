"""Audio codecs: `diffusers.AutoencoderOobleck` (stereo) and `MMAudioVAE` with `MMAudioVocoder` (two mono passes).

Latents are normalised by latents_mean and latents_std of a `sky4.json` beside the folder's config.json, one value per
channel; without that file Oobleck's latents stay as they are and MMAudio's are multiplied by its scaling_factor.

    B batch   S samples   T_a audio tokens   C latent channels   c channels of one mono side
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sky4.encoders.folder import find_folder, load_diffusers, read_config, read_json, single_modules
from sky4.encoders.protocols import AudioCodec
from sky4.errors import RequestError, Sky4Failure

# Latents decoded at once by Oobleck: 12 s of sound. A wide decoder (128 channels at the full rate) then holds 270 MB
# per tensor in float32, however long the sound is.
CHUNK_LATENTS = 512


def load_audio_codec(
    path: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32, vocoder: str | Path | None = None
) -> AudioCodec:
    """The frozen codec of a folder or hub name in diffusers' format.

    An MMAudioVAE needs its vocoder: `vocoder`, else the folder `vocoder` inside it or beside it.
    Raises RequestError where that is no audio codec, Sky4Failure where its weights do not fit its config.
    """
    folder = find_folder(path, "an audio codec")
    name = read_config(folder, "an audio codec").get("_class_name")
    if name == "AutoencoderOobleck":
        with single_modules():
            from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck
        vae = load_diffusers(AutoencoderOobleck, folder, device, dtype)
        return OobleckCodec(vae, *read_statistics(folder, int(vae.config.decoder_input_channels), scale=1.0))
    if name == "MMAudioVAE":
        with single_modules():
            from diffusers.models.autoencoders.autoencoder_mmaudio import MMAudioVAE
            from diffusers.models.autoencoders.mmaudio_vocoder import MMAudioVocoder
        voice = vocoder_folder(path, folder, vocoder)
        vae = load_diffusers(MMAudioVAE, folder, device, dtype)
        statistics = read_statistics(folder, 2 * int(vae.config.latent_channels), float(vae.config.scaling_factor))
        return MMAudioCodec(vae, load_diffusers(MMAudioVocoder, voice, device, dtype), *statistics)
    raise RequestError(
        f"{folder} is not an audio codec: its config.json says _class_name {name!r}; "
        "give a folder of AutoencoderOobleck or MMAudioVAE"
    )


def read_statistics(folder: Path, channels: int, scale: float) -> tuple[Tensor, Tensor]:
    """Mean and deviation [C] of the latents from `sky4.json`; 0 and 1 / scale where the folder has none."""
    path = folder / "sky4.json"
    if not path.is_file():
        return torch.zeros(channels), torch.full((channels,), 1 / scale)
    content = read_json(path)
    columns = []
    for key in ("latents_mean", "latents_std"):
        values = content.get(key)
        if not isinstance(values, list) or len(values) != channels:
            raise Sky4Failure(f"{path} must give {key} as a list of {channels} numbers, one per latent channel")
        columns.append(torch.tensor(values, dtype=torch.float32))
    return columns[0], columns[1]


class OobleckCodec:
    """`AutoencoderOobleck`: a stereo waveform in, one latent per hop out, hop = the product of its ratios.

    Encodes whole (2 GB for 15 s with 128 channels at the full rate); decodes in chunks with the decoder's whole
    reach of latents on either side, so that chunks together equal one piece up to rounding.
    """

    def __init__(self, vae: Any, mean: Tensor, std: Tensor, chunk_latents: int = CHUNK_LATENTS, finished: bool = False):
        """finished: units that add nothing have been taken out already."""
        config = vae.config
        if config.audio_channels != 2:
            raise Sky4Failure(
                f"the audio codec's config.json gives {config.audio_channels} audio channels; sky4 needs 2"
            )
        self.vae = vae
        self.channels = int(config.decoder_input_channels)
        self.sample_rate = int(config.sampling_rate)
        self.hop = math.prod(config.downsampling_ratios)
        self.reach = decoder_reach(config.downsampling_ratios)
        self._mean, self._std, self._chunk = mean, std, chunk_latents
        for part in () if finished else (vae.encoder, vae.decoder):
            skip_idle_units(part)

    @torch.no_grad()
    def encode(self, wave: Tensor) -> Tensor:
        tokens = check_wave(self, wave)
        parameter = _like(self.vae)
        latents = self.vae.encode(wave.to(parameter)).latent_dist.mode()[..., :tokens]  # [B, C, T_a]
        return _normalised(latents, self._mean, self._std)

    @torch.no_grad()
    def decode(self, latents: Tensor, samples: int) -> Tensor:
        check_audio_latents(self, latents, samples)
        hidden = _restored(latents, self._mean, self._std).to(_like(self.vae))  # [B, C, T_a]
        tokens = hidden.shape[-1]
        pieces = []
        for start in range(0, tokens, self._chunk):
            end = min(start + self._chunk, tokens)
            first, last = max(0, start - self.reach), min(tokens, end + self.reach)
            piece = self.vae.decode(hidden[..., first:last]).sample
            pieces.append(piece[..., (start - first) * self.hop : (end - first) * self.hop])
        return _fitted(torch.cat(pieces, dim=-1), samples)

    def to(self, device: str) -> OobleckCodec:
        self.vae.to(device)
        return self


class MMAudioCodec:
    """`MMAudioVAE` and `MMAudioVocoder`: mono mel latents; left and right are coded apart, channels side by side.

    Works on the whole sound: the autoencoder attends over all of it.
    """

    def __init__(self, vae: Any, vocoder: Any, mean: Tensor, std: Tensor):
        upsampling = math.prod(vocoder.config.upsample_rates)
        if upsampling != vae.config.hop_length or vocoder.config.num_mels != vae.config.mel_bins:
            raise Sky4Failure(
                f"the vocoder makes {upsampling} samples of {vocoder.config.num_mels} mel bins and the MMAudioVAE has "
                f"{vae.config.hop_length} of {vae.config.mel_bins}; give the vocoder that belongs to it"
            )
        if (
            vae.dtype != torch.float32
        ):  # the mel front end runs in float32 and its tables came rounded: compute them anew
            config = vae.config
            tables = type(vae.mel_converter)(config.sample_rate, config.n_fft, config.mel_bins, config.hop_length)
            vae.mel_converter = tables.to(vae.device)
        self.vae, self.vocoder = vae, vocoder
        self.channels = 2 * int(vae.config.latent_channels)
        self.sample_rate = int(vae.config.sample_rate)
        self.hop = 2 * int(vae.config.hop_length)
        self._mean, self._std = mean, std

    @torch.no_grad()
    def encode(self, wave: Tensor) -> Tensor:
        tokens = check_wave(self, wave)
        mono = wave.to(_like(self.vae).device, torch.float32).flatten(0, 1)  # [2B, S]; the mel is taken in float32
        latents = self.vae.encode(mono).latent_dist.mode()[..., :tokens]  # [2B, c, T_a]
        return _normalised(latents.unflatten(0, (-1, 2)).flatten(1, 2), self._mean, self._std)

    @torch.no_grad()
    def decode(self, latents: Tensor, samples: int) -> Tensor:
        check_audio_latents(self, latents, samples)
        hidden = _restored(latents, self._mean, self._std).to(_like(self.vae))
        mel = self.vae.decode(hidden.unflatten(1, (2, -1)).flatten(0, 1)).sample  # [2B, mel, 2 T_a]
        wave = self.vocoder(mel.to(_like(self.vocoder))).sample[:, 0]  # [2B, S]
        return _fitted(wave.unflatten(0, (-1, 2)), samples)

    def to(self, device: str) -> MMAudioCodec:
        self.vae.to(device)
        self.vocoder.to(device)
        return self


def decoder_reach(ratios: Iterable[int]) -> int:
    """How many latents on either side an Oobleck decoder's sample depends on, for its encoder's ratios.

    Its parts, from the latents outwards: a convolution of 7; per ratio, a transposed convolution of twice the ratio
    (one more input on either side) and three units of 7 taps at dilations 1, 3 and 9; a last convolution of 7.
    """
    reach, rate = 3.0, 1
    for ratio in reversed(list(ratios)):
        reach += 1 / rate
        rate *= ratio
        reach += 3 * (1 + 3 + 9) / rate
    return math.ceil(reach + 3 / rate)


def skip_idle_units(part: nn.Module) -> None:
    """Take out residual units that add exactly nothing: all zero in their last convolution.

    Small codecs are trained with the units at the full sample rate switched off, where nine tenths of the work is.
    """
    for block in part.block:  # type: ignore[union-attr]
        for name in ("res_unit1", "res_unit2", "res_unit3"):
            last = getattr(block, name).conv2
            if not last.weight_g.any() and not last.bias.any():
                setattr(block, name, nn.Identity())


def check_wave(codec: AudioCodec, wave: Tensor) -> int:
    """The number of tokens T_a of waves [B, 2, S]; ValueError where the codec cannot encode them."""
    if wave.ndim != 3 or wave.shape[1] != 2:
        raise ValueError(f"a wave must be [B, 2, S], stereo, got {list(wave.shape)}")
    tokens = wave.shape[2] // codec.hop
    if not tokens:
        raise ValueError(f"a sound must have at least {codec.hop} samples for this audio codec, got {wave.shape[2]}")
    return int(tokens)


def check_audio_latents(codec: AudioCodec, latents: Tensor, samples: int) -> None:
    """Raise ValueError where latents are not this codec's, or not of so many samples."""
    if latents.ndim != 3 or latents.shape[2] != codec.channels or not latents.shape[1]:
        raise ValueError(f"audio latents must be [B, T_a, {codec.channels}], got {list(latents.shape)}")
    if samples // codec.hop != latents.shape[1]:
        least = latents.shape[1] * codec.hop
        raise ValueError(
            f"{latents.shape[1]} audio latents are {least} to {least + codec.hop - 1} samples, got samples={samples}"
        )


def vocoder_folder(path: str | Path, folder: Path, vocoder: str | Path | None) -> Path:
    """Where the vocoder of the MMAudioVAE in `folder` lies, which was asked for as `path`. RequestError without one."""
    if vocoder is not None:
        return find_folder(vocoder, "a vocoder")
    for beside in (folder / "vocoder", folder.parent / "vocoder"):
        if beside.is_dir():
            return beside
    if not Path(path).exists() and str(path).count("/") > 1:  # a part of a hub repository: its vocoder is another part
        return find_folder(str(path).rpartition("/")[0] + "/vocoder", "a vocoder")
    raise RequestError(f"{folder} is an MMAudioVAE and needs its vocoder; put its folder beside it as 'vocoder'")


def _normalised(latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    tokens = latents.float().transpose(1, 2)  # [B, T_a, C]
    return (tokens - mean.to(tokens.device)) / std.to(tokens.device)


def _restored(latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    tokens = latents.float()
    return (tokens * std.to(tokens.device) + mean.to(tokens.device)).transpose(1, 2)  # [B, C, T_a]


def _fitted(wave: Tensor, samples: int) -> Tensor:
    wave = wave.float()[..., :samples]
    return functional.pad(wave, (0, samples - wave.shape[-1])).clamp(-1, 1)


def _like(module: Any) -> Tensor:
    """A weight of the module, for its device and dtype."""
    weight: Tensor = next(module.parameters())
    return weight
