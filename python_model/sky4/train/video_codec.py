"""Training of the video codec (a `diffusers.AutoencoderKLWan`) on renders of the world.

B clips of F frames; every clip is a scene of the training split at a random moment.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn

from sky4.encoders.wan import decode_whole, encode_moments
from sky4.world.render import render_video
from sky4.world.scene import CLIP_SECONDS, sample_scene

START_LOGVAR = -5.0


@dataclass(frozen=True)
class VideoCodecConfig:
    size: int = 64
    frames: int = 9
    fps: int = 16
    patch: int = 4
    channels: int = 48
    encoder_width: int = 32
    decoder_width: int = 40
    kl_weight: float = 1e-4
    edge_weight: float = 0.5
    residual: bool = True
    bf16: bool = True


def build(config: VideoCodecConfig) -> AutoencoderKLWan:
    patched = 3 * config.patch**2
    return AutoencoderKLWan(
        base_dim=config.encoder_width,
        decoder_base_dim=config.decoder_width,
        z_dim=config.channels,
        dim_mult=[1, 2, 2] if config.residual else [1, 2, 4],
        is_residual=config.residual,
        num_res_blocks=1,
        temperal_downsample=[True, True],
        patch_size=config.patch,
        in_channels=patched,
        out_channels=patched,
        scale_factor_spatial=4 * config.patch,
        scale_factor_temporal=4,
        latents_mean=[0.0] * config.channels,
        latents_std=[1.0] * config.channels,
    )


class VideoCodecProblem:
    """L1 reconstruction, with a term on spatial differences that keeps edges, and a light KL."""

    def __init__(self, config: VideoCodecConfig, device: str = "cpu"):
        self.config, self.device = config, device
        torch.manual_seed(0)
        self.codec = build(config).to(device)
        with (
            torch.no_grad()
        ):  # start near a plain autoencoder: at deviation 1 the noise drowns a fresh encoder's latents
            self.codec.quant_conv.weight[config.channels :] *= 0.1
            self.codec.quant_conv.bias[config.channels :] = START_LOGVAR

    @property
    def module(self) -> nn.Module:
        return self.codec

    def pixels(self, seed: int, first: int, batch: int) -> Tensor:
        """Renders [B, 3, F, size, size] of the samples first .. first + batch - 1."""
        config = self.config
        scenes = [sample_scene(seed, first + i) for i in range(batch)]
        draws = [np.random.Generator(np.random.Philox(key=[seed, first + i])).random() for i in range(batch)]
        starts = [draw * (CLIP_SECONDS - config.frames / config.fps) for draw in draws]
        return render_video(scenes, config.frames, config.fps, config.size, starts, self.device)

    def loss(self, seed: int, first: int, batch: int) -> tuple[Tensor, dict[str, float]]:
        pixels = self.pixels(seed, first, batch)
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.config.bf16):
            mean, logvar = encode_moments(self.codec, pixels)
            noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed * 1_000_003 + first))
            decoded = decode_whole(self.codec, mean + noise.to(mean) * (0.5 * logvar).exp())  # not clamped
        decoded, mean, logvar = decoded.float(), mean.float(), logvar.float().clamp(-30, 20)
        error = decoded - pixels
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        squared = F.mse_loss(decoded, pixels)
        loss = error.abs().mean() + 2 * squared + self.config.edge_weight * edges + self.config.kl_weight * kl
        psnr = 10 * torch.log10(4 / squared.detach())
        return loss, {"psnr": float(psnr), "edges": float(edges.detach()), "kl": float(kl.detach())}


@torch.no_grad()
def export(problem: VideoCodecProblem, folder: Path, clips: int = 48) -> dict[str, float]:
    """Measure the latents' mean and deviation on renders, put them into the config, save; returns what was measured."""
    codec = problem.codec.eval()
    pixels = problem.pixels(seed=7, first=0, batch=clips)
    latents = codec.encode(pixels).latent_dist.mean
    decoded = torch.cat([codec.decode(z[None]).sample for z in latents])
    codec.register_to_config(
        latents_mean=latents.mean((0, 2, 3, 4)).tolist(), latents_std=latents.std((0, 2, 3, 4)).tolist()
    )
    codec.to(torch.bfloat16).save_pretrained(folder, safe_serialization=True)
    codec.float()
    return {"psnr": float(10 * torch.log10(4 / F.mse_loss(decoded, pixels)))}
