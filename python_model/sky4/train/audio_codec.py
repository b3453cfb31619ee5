"""Training of the audio codec (a `diffusers.AutoencoderOobleck`) on the sounds of the world.

B stereo crops of S samples; every crop is cut from a scene of the training split, most of them around an event.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_oobleck import (
    AutoencoderOobleck,
    OobleckDiagonalGaussianDistribution,
)
from torch import Tensor, nn

from sky4.train.lapped import lapped_start
from sky4.world.scene import CLIP_SECONDS, sample_scene
from sky4.world.sound import render_audio


@dataclass(frozen=True)
class AudioCodecConfig:
    sample_rate: int = 44100
    ratios: tuple[int, ...] = (16, 64)  # their product is the hop
    multiples: tuple[int, ...] = (1, 1)
    channels: int = 32  # of the latents
    decoder_width: int = 32
    samples: int = 16384  # of a training crop
    windows: tuple[int, ...] = (128, 512, 2048)  # of the spectral loss
    start_clips: int = 160  # whose sounds the closed-form start is fitted to
    kl_weight: float = 1e-4
    wave_weight: float = 20.0
    bf16: bool = False


def build(config: AudioCodecConfig) -> AutoencoderOobleck:
    return AutoencoderOobleck(
        encoder_hidden_size=2 * config.channels,  # the encoder's last layer gives mean and scale
        downsampling_ratios=list(config.ratios),
        channel_multiples=list(config.multiples),
        decoder_channels=config.decoder_width,
        decoder_input_channels=config.channels,
        audio_channels=2,
        sampling_rate=config.sample_rate,
    )


def still_full_rate_units(codec: AutoencoderOobleck) -> None:
    """Make the residual units at the full sample rate the identity, and keep them so.

    They hold nine tenths of the codec's work; without them it trains on a CPU. The weights stay in their places, so the
    library's class computes the same, and a later training may free them.
    """
    block = (codec.encoder.block[0], codec.decoder.block[-1])
    for unit in (unit for b in block for unit in (b.res_unit1, b.res_unit2, b.res_unit3)):
        unit.requires_grad_(False)
        unit.conv2.weight_g.zero_()
        unit.conv2.bias.zero_()


def encode_moments(codec: AutoencoderOobleck, waves: Tensor) -> Tensor:
    """Mean and scale [B, 2C, T] of waves [B, 2, S], stepping over the still units: equal to `codec.encode`."""
    encoder = codec.encoder
    hidden = encoder.block[0].conv1(encoder.block[0].snake1(encoder.conv1(waves)))
    for block in encoder.block[1:]:
        hidden = block(hidden)
    return encoder.conv2(encoder.snake1(hidden))


def decode(codec: AutoencoderOobleck, latents: Tensor) -> Tensor:
    """Waves [B, 2, S] of latents [B, C, T], stepping over the still units: equal to `codec.decode`."""
    decoder = codec.decoder
    hidden = decoder.conv1(latents)
    for block in decoder.block[:-1]:
        hidden = block(hidden)
    hidden = decoder.block[-1].conv_t1(decoder.block[-1].snake1(hidden))
    return decoder.conv2(decoder.snake1(hidden))


def spectral_loss(decoded: Tensor, truth: Tensor, windows: tuple[int, ...]) -> Tensor:
    """Mean over windows of |log magnitude difference| and the relative magnitude error; waves [B, 2, S]."""
    losses = []
    for window in windows:
        shape = torch.hann_window(window, device=truth.device)
        first, second = (
            torch.stft(w.flatten(0, 1), window, window // 4, window=shape, return_complex=True).abs() / window**0.5
            for w in (decoded, truth)
        )
        logs = (torch.log(first + 1e-3) - torch.log(second + 1e-3)).abs().mean()
        losses.append(logs + (first - second).norm() / (second.norm() + 1e-2))
    return torch.stack(losses).mean()


class AudioCodecProblem:
    """Multi-resolution spectral loss plus waveform error (the world's sounds have a definite phase), and a light KL."""

    def __init__(self, config: AudioCodecConfig, device: str = "cpu"):
        self.config, self.device = config, device
        torch.manual_seed(0)
        self.codec = build(config).to(device)
        with torch.no_grad():
            still_full_rate_units(self.codec)
            lapped_start(
                self.codec,
                render_audio([sample_scene(3, i) for i in range(config.start_clips)], 5 * config.sample_rate),
            )

    @property
    def module(self) -> nn.Module:
        return self.codec

    def waves(self, seed: int, first: int, batch: int) -> Tensor:
        """Stereo crops [B, 2, S] of the samples first .. first + batch - 1."""
        config = self.config
        length = config.samples / config.sample_rate
        scenes, starts = [], []
        for index in range(first, first + batch):
            random = np.random.Generator(np.random.Philox(key=[seed, index]))
            scene = sample_scene(seed, index)
            start = random.uniform(0, CLIP_SECONDS - length)
            if random.random() < 0.75:  # an event inside the crop
                event = scene.events(0, CLIP_SECONDS - length)
                start = event[int(random.integers(len(event)))].time - random.uniform(0, length)
            scenes.append(scene)
            starts.append(start)
        return render_audio(scenes, config.samples, config.sample_rate, starts).to(self.device)

    def loss(self, seed: int, first: int, batch: int) -> tuple[Tensor, dict[str, float]]:
        waves = self.waves(seed, first, batch)
        with torch.autocast(waves.device.type, torch.bfloat16, enabled=self.config.bf16):
            posterior = OobleckDiagonalGaussianDistribution(encode_moments(self.codec, waves))
            noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(seed * 1_000_003 + first))
            decoded = decode(self.codec, posterior.mean + posterior.std * noise.to(posterior.std))
        decoded = decoded.float()
        spectral = spectral_loss(decoded, waves, self.config.windows)
        wave = (decoded - waves).abs().mean()
        kl = posterior.kl().float() / self.config.channels
        loss = spectral + self.config.wave_weight * wave + self.config.kl_weight * kl
        snr = 10 * torch.log10(waves.square().sum() / (decoded - waves).square().sum())
        shown = {"snr": snr, "spectral": spectral, "wave": wave, "kl": kl}
        return loss, {name: float(value.detach()) for name, value in shown.items()}


@torch.no_grad()
def export(problem: AudioCodecProblem, folder: Path, clips: int = 24) -> dict[str, float]:
    """Measure the latents' mean and deviation on whole clips, save codec and `sky4.json`; returns what was measured."""
    codec = problem.codec.eval()
    samples = int(CLIP_SECONDS * problem.config.sample_rate)
    waves = render_audio([sample_scene(7, index) for index in range(clips)], samples).to(problem.device)
    latents = torch.cat([codec.encode(wave[None]).latent_dist.mode() for wave in waves])
    decoded = torch.cat([codec.decode(z[None]).sample for z in latents])
    truth = waves[..., : decoded.shape[-1]]
    codec.to(torch.bfloat16).save_pretrained(folder, safe_serialization=True)
    codec.float()
    deviation = latents.std((0, 2))
    # A channel that these sounds hardly use must not blow up on others that do.
    deviation = deviation.clamp(min=0.01 * float(deviation.max()))
    statistics = {"latents_mean": latents.mean((0, 2)).tolist(), "latents_std": deviation.tolist()}
    (folder / "sky4.json").write_text(json.dumps(statistics, indent=1))
    return {"snr": float(10 * torch.log10(truth.square().sum() / (decoded - truth).square().sum()))}
