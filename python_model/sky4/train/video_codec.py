"""Training of the video codec (a `diffusers.AutoencoderKLWan`) on renders of the world.

B clips of F frames; every clip is a scene of the training split, or a take of one of its families, at a random moment.
A codec that goes on from another one (`base`) is held to its latents on plain scenes, so that what was trained on those
latents still reads them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn

from sky4.encoders.wan import decode_whole, encode_moments
from sky4.train.precision import multiplies_bfloat16
from sky4.world.families import FAMILY_SECONDS, VIDEOS, sample_family
from sky4.world.render import render_coverage, render_video
from sky4.world.scene import CLIP_SECONDS, Scene, sample_scene
from sky4.world.take import Take

START_LOGVAR = -5.0
AROUND = 1 / 32  # in unit widths: how far about a thing its outline is looked for


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
    bf16: bool | None = None  # None: where the device multiplies it natively
    base: str | None = None  # the folder of a codec to go on from; its shape replaces the fields above
    families: float = 0.0  # share of samples that are takes of levels 2 and 3
    anchor_weight: float = 1.0  # of the distance to the base's latents on plain scenes
    frozen_encoder: bool = False  # the base's latents stay exactly as they are; the decoder alone learns
    things_weight: float = 0.0  # how much more the error counts where a thing is, and just around it


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


def load(folder: str) -> AutoencoderKLWan:
    """A codec in the library's format, in float32. Raises ValueError where the folder holds none."""
    try:
        codec: AutoencoderKLWan = AutoencoderKLWan.from_pretrained(folder, torch_dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ValueError(f"network.base is {folder}, which holds no video codec: {error}") from error
    return codec


class VideoCodecProblem:
    """L1 reconstruction, with a term on spatial differences that keeps edges, and a light KL."""

    def __init__(self, config: VideoCodecConfig, device: str = "cpu"):
        self.config, self.device = config, device
        self._bf16 = multiplies_bfloat16(torch.device(device)) if config.bf16 is None else config.bf16
        torch.manual_seed(0)
        self.anchor: AutoencoderKLWan | None = None
        if config.base is not None:
            self.codec = load(config.base).to(device)
            if config.frozen_encoder:
                self.codec.encoder.requires_grad_(False)
                self.codec.quant_conv.requires_grad_(False)
            self.anchor = load(config.base).to(device).requires_grad_(False)
            return
        if config.frozen_encoder:
            raise ValueError("network.frozen_encoder needs a network.base, whose encoder it is")
        self.codec = build(config).to(device)
        with torch.no_grad():  # near a plain autoencoder: at deviation 1 the noise drowns a fresh encoder's latents
            self.codec.quant_conv.weight[config.channels :] *= 0.1
            self.codec.quant_conv.bias[config.channels :] = START_LOGVAR

    @property
    def module(self) -> nn.Module:
        return self.codec

    def plain(self, batch: int) -> int:
        """How many samples of a batch are scenes of level 1; the others are takes of families."""
        return batch - round(self.config.families * batch)

    def takes(self, seed: int, first: int, batch: int) -> tuple[list[Scene | Take], list[float]]:
        """The samples first .. first + batch - 1, plain scenes first, and the second at which each clip starts."""
        config = self.config
        takes: list[Scene | Take] = []
        starts = []
        for i in range(batch):
            random = np.random.Generator(np.random.Philox(key=[seed, first + i]))
            if i < self.plain(batch):
                takes.append(sample_scene(seed, first + i))
                seconds = CLIP_SECONDS
            else:
                takes.append(sample_family(seed, first + i).takes[VIDEOS[int(random.integers(len(VIDEOS)))]])
                seconds = FAMILY_SECONDS
            starts.append(random.random() * max(0.0, seconds - config.frames / config.fps))
        return takes, starts

    def pixels(self, seed: int, first: int, batch: int) -> Tensor:
        """Renders [B, 3, F, size, size] of the samples first .. first + batch - 1."""
        return self._drawn(*self.takes(seed, first, batch))

    def _drawn(self, takes: list[Scene | Take], starts: list[float]) -> Tensor:
        config = self.config
        return render_video(takes, config.frames, config.fps, config.size, starts, self.device)

    def weights(self, takes: list[Scene | Take], starts: list[float]) -> Tensor | None:
        """How much each pixel's error counts in these samples, [B, 1, F, size, size]; None where all count alike.

        Where an effect bends the picture its things are not sought, and all its pixels count alike.
        """
        config = self.config
        if not config.things_weight:
            return None
        covered = torch.zeros(len(takes), config.frames, config.size, config.size, device=self.device)
        for shown, start, out in zip(takes, starts, covered, strict=True):
            take = Take.of(shown) if isinstance(shown, Scene) else shown
            if take.effect == "none":
                time = start + torch.arange(config.frames, device=self.device) / config.fps
                for thing in range(len(take.things)):
                    torch.maximum(out, render_coverage(take, thing, time, config.size), out=out)
        reach = 2 * round(AROUND * config.size) + 1
        near = F.max_pool2d(covered, reach, 1, reach // 2)
        return 1 + config.things_weight * near[:, None]

    def loss(self, seed: int, first: int, batch: int) -> tuple[Tensor, dict[str, float]]:
        takes, starts = self.takes(seed, first, batch)
        pixels, weights = self._drawn(takes, starts), self.weights(takes, starts)
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self._bf16):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.frozen_encoder):
                mean, logvar = encode_moments(self.codec, pixels)
            noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed * 1_000_003 + first))
            decoded = decode_whole(self.codec, mean + noise.to(mean) * (0.5 * logvar).exp())  # not clamped
        decoded, mean, logvar = decoded.float(), mean.float(), logvar.float().clamp(-30, 20)
        error = decoded - pixels
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        squared = F.mse_loss(decoded, pixels)
        counted = error.abs() + 2 * error.square()
        loss = (counted if weights is None else weights * counted).mean()
        loss = loss + self.config.edge_weight * edges + self.config.kl_weight * kl
        shown = {"psnr": float(10 * torch.log10(4 / squared.detach())), "edges": float(edges.detach())}
        shown["kl"] = float(kl.detach())
        if weights is not None:
            near = weights > 1
            shown["psnr things"] = float(-10 * torch.log10((error.detach().square() * near).sum() / (12 * near.sum())))
        if self.anchor is not None and not self.config.frozen_encoder and (plain := self.plain(batch)):
            drift = self._drift(mean[:plain], pixels[:plain])
            loss = loss + self.config.anchor_weight * drift
            shown["drift"] = float(drift.detach())
        return loss, shown

    def _drift(self, mean: Tensor, pixels: Tensor) -> Tensor:
        """Mean squared distance to the base's latents, in their deviations."""
        assert self.anchor is not None
        with torch.no_grad(), torch.autocast(pixels.device.type, torch.bfloat16, enabled=self._bf16):
            wanted, _ = encode_moments(self.anchor, pixels)
        deviation = torch.tensor(self.codec.config.latents_std, device=mean.device).view(1, -1, 1, 1, 1)
        return ((mean - wanted.float()) / deviation).square().mean()


@torch.no_grad()
def export(problem: VideoCodecProblem, folder: Path, clips: int = 48) -> dict[str, float]:
    """Measure the latents' mean and deviation on renders, put them into the config, save; returns what was measured.

    A codec that went on from another one keeps that one's: what reads its latents counts on them.
    """
    codec = problem.codec.eval()
    pixels = problem.pixels(seed=7, first=0, batch=clips)
    latents = codec.encode(pixels).latent_dist.mean
    decoded = torch.cat([codec.decode(z[None]).sample for z in latents])
    if problem.anchor is None:
        codec.register_to_config(
            latents_mean=latents.mean((0, 2, 3, 4)).tolist(), latents_std=latents.std((0, 2, 3, 4)).tolist()
        )
    codec.to(torch.bfloat16).save_pretrained(folder, safe_serialization=True)
    codec.float()
    return {"psnr": float(10 * torch.log10(4 / F.mse_loss(decoded, pixels)))}
