"""A closed-form start for a two-stage Oobleck codec: lapped transforms and principal components.

The first stage becomes an MDCT of each stereo channel, the second an MDCT of each subband followed by the projection on
the principal components of the given sounds; the decoder is their transpose, all else starts as the identity. The codec
is then the best linear one of its kind before its first training step, and training only has to improve on it.
C latent channels, K1 and K2 strides of the stages, T latents.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck, OobleckResidualUnit, Snake1d
from torch import Tensor

NEAR_LINEAR = -2.5  # log of snake's frequency: bends by less than 0.01 at amplitude 1
QUIET_SCALE = -3.0  # softplus of it is the posterior's deviation at the start


def mdct_basis(bands: int) -> Tensor:
    """Orthonormal lapped basis [bands, 2 bands] with a sine window; hop = bands."""
    taps = torch.arange(2 * bands, dtype=torch.float64) + 0.5
    window = torch.sin(math.pi * taps / (2 * bands))
    rows = torch.arange(bands, dtype=torch.float64)[:, None] + 0.5
    return torch.cos(math.pi / bands * rows * (taps + bands / 2)) * window * math.sqrt(2 / bands)


def _set(layer: Any, weight: Tensor, spread: float = 1e-3) -> None:
    """Give a weight-normalised layer this weight; its empty rows get a small random one, so that they can learn."""
    weight = weight + spread * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * (
        weight.abs().sum(tuple(range(1, weight.ndim)), keepdim=True) == 0
    )
    layer.weight_v.copy_(weight)
    layer.weight_g.copy_(weight.norm(dim=tuple(range(1, weight.ndim)), keepdim=True))
    if layer.bias is not None:
        layer.bias.zero_()


def _centred(layer: Any, pairs: int) -> Tensor:
    """A convolution weight that passes the first `pairs` channels through."""
    weight = torch.zeros(layer.weight_v.shape)
    for channel in range(pairs):
        weight[channel, channel, weight.shape[-1] // 2] = 1.0
    return weight


@torch.no_grad()
def lapped_start(codec: AutoencoderOobleck, waves: Tensor) -> None:
    """Set the weights of `codec` (two stages) from sounds `waves` [B, 2, S]."""
    first, second = codec.encoder.block
    k1, k2 = codec.downsampling_ratios
    latents = codec.decoder.conv1.in_channels
    bands = 2 * k1  # of both stereo channels
    for module in codec.modules():
        if isinstance(module, Snake1d):
            module.alpha.fill_(NEAR_LINEAR)
        if isinstance(module, OobleckResidualUnit):
            module.conv2.weight_g.zero_()
            module.conv2.bias.zero_()
    basis = mdct_basis(k1)  # [k1, 2 k1]
    analysis = torch.zeros(bands, 2, 2 * k1, dtype=torch.float64)
    analysis[:k1, 0], analysis[k1:, 1] = basis, basis
    subbands = F.conv1d(waves.double(), analysis, stride=k1, padding=k1 // 2)  # [B, bands, S / k1]
    lapped = mdct_basis(k2)
    spectra = F.conv1d(subbands.flatten(0, 1)[:, None], lapped[:, None], stride=k2, padding=k2 // 2)
    rows = spectra.unflatten(0, subbands.shape[:2]).permute(0, 3, 1, 2).flatten(0, 1).flatten(1)  # [B T, bands k2]
    directions = torch.linalg.eigh(rows.T @ rows)[1].flip(-1)[:, :latents]  # [bands k2, C]
    filters = torch.einsum("bkc,kt->cbt", directions.unflatten(0, (bands, k2)), lapped).float()  # [C, bands, 2 k2]

    def pad(weight: Tensor, shape: torch.Size) -> Tensor:
        full = torch.zeros(shape)
        full[: weight.shape[0], : weight.shape[1]] = weight
        return full

    _set(codec.encoder.conv1, _centred(codec.encoder.conv1, 2))
    _set(first.conv1, pad(analysis.float(), first.conv1.weight_v.shape))
    _set(second.conv1, pad(filters, second.conv1.weight_v.shape))
    _set(codec.encoder.conv2, _centred(codec.encoder.conv2, latents))
    codec.encoder.conv2.bias[latents:] = QUIET_SCALE
    inner, outer = codec.decoder.block
    _set(codec.decoder.conv1, _centred(codec.decoder.conv1, latents))
    _set(inner.conv_t1, pad(filters, inner.conv_t1.weight_v.shape))
    _set(outer.conv_t1, pad(analysis.float(), outer.conv_t1.weight_v.shape))
    _set(codec.decoder.conv2, _centred(codec.decoder.conv2, 2))
