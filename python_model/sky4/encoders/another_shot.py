"""A shot behind a cut, encoded and decoded by itself: a causal codec would blend its first frames with the shot before.

Its first latent holds as many frames as the others, where a clip's first latent holds one.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sky4.encoders.protocols import VideoCodec

SETTLED = 4  # latent frames after which a codec has forgotten what went before


def encoded_alone(pixels: Tensor, codec: VideoCodec) -> Tensor:
    """Latents [B, C, T, h, w] of a shot's frames [B, 3, r T, H, W] in [-1, 1], r = temporal_compression, encoded behind
    the still of the first of them."""
    return codec.encode(torch.cat((pixels[:, :, :1], pixels), dim=2))[:, :, 1:]


def encoded_still(still: Tensor, codec: VideoCodec) -> Tensor:
    """Latents [B, C, 1, h, w] of a picture [B, 3, H, W] in [-1, 1], as of a shot in which nothing moves."""
    return encoded_alone(still[:, :, None].repeat(1, 1, codec.temporal_compression, 1, 1), codec)


def decoded_alone(latents: Tensor, codec: VideoCodec) -> Iterator[Tensor]:
    """Chunks [1, 3, f, H, W] of a shot's latents [1, C, T, h, w].

    In front of them stands the still of the shot's first frame, which is found by decoding: of its first latent over
    and over, until what went before is forgotten, and again behind that. (Behind the first latent itself, the first
    frames come out in false colours.)
    """
    first = latents[:, :, :1]
    settled = torch.cat(list(codec.decode(first.expand(-1, -1, SETTLED, -1, -1))), dim=2)[:, :, -1:]
    begun = torch.cat(list(codec.decode(torch.cat((codec.encode(settled), first), dim=2))), dim=2)[:, :, 1:2]
    chunks = codec.decode(torch.cat((codec.encode(begun), latents), dim=2))
    chunk = next(chunks)
    if chunk.shape[2] > 1:
        yield chunk[:, :, 1:]
    yield from chunks
