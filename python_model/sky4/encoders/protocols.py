"""What the pipeline and the trainer need of a codec and of a text encoder, whatever library class is behind it.

B batch   F pixel frames   H W pixels   T latent frames   h w latent grid   C latent channels
S samples   T_a audio tokens   N_t text tokens   D_text width of the text encoder
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sky4.encoders.tiling import WHOLE, Tiling
from sky4.inputs import TextInput


class VideoCodec(Protocol):
    """Pixels to normalised latents and back; both float32, computed in the dtype the codec was loaded in."""

    channels: int
    spatial_compression: int
    temporal_compression: int

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, F, H, W] in [-1, 1] to latents [B, C, T, h, w]: the distribution's mean, normalised.

        Raises ValueError for a size or a number of frames the codec cannot make, with the nearest it can.
        """
        ...

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """Latents [B, C, T, h, w] to chunks of pixels [B, 3, f, H, W] in [-1, 1], frames in order.

        Memory is bounded by a chunk, not by the clip. Raises ValueError for latents of another codec.
        """
        ...

    def black(self, frames: int, height: int, width: int) -> Tensor:
        """Latents [1, C, T, h, w] of a black clip of so many pixels and frames; computed once per size."""
        ...

    def to(self, device: str) -> VideoCodec:
        """Move the weights; returns the codec itself."""
        ...


class TiledCodec(VideoCodec, Protocol):
    """A video codec that can decode in smaller pieces than it does by itself."""

    def decode(self, latents: Tensor, tiling: Tiling = WHOLE) -> Iterator[Tensor]:
        """As VideoCodec, in these pieces. Whole latent frames give the same pixels up to rounding, tiles nearly so."""
        ...

    def ladder(self, latents: Tensor) -> tuple[Tiling, ...]:
        """The tilings that make a difference for latents [B, C, T, h, w], each lighter than the one before."""
        ...


class AudioCodec(Protocol):
    """Stereo waveforms to normalised latents and back; both float32."""

    channels: int
    sample_rate: int
    hop: int

    def encode(self, wave: Tensor) -> Tensor:
        """Waves [B, 2, S] in [-1, 1] to latents [B, T_a, C], T_a = floor(S / hop): the distribution's mean, normalised.

        Raises ValueError for anything but stereo and for less than one hop of sound.
        """
        ...

    def decode(self, latents: Tensor, samples: int) -> Tensor:
        """Latents [B, T_a, C] to waves [B, 2, samples] in [-1, 1].

        The samples after the last whole hop, which no latent describes, are silent.
        Raises ValueError where `samples` are not the T_a hops and less than one more.
        """
        ...

    def to(self, device: str) -> AudioCodec:
        """Move the weights; returns the codec itself."""
        ...


@dataclass(frozen=True)
class ImageReference:
    """A picture the prompt names, pixels [H, W, 3] uint8."""

    name: str
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class VideoReference:
    """A clip the prompt names, frames [F, H, W, 3] uint8."""

    name: str
    frames: NDArray[np.uint8]


@dataclass(frozen=True)
class AudioReference:
    """A sound the prompt names, wave [2, S] in [-1, 1]."""

    name: str
    wave: NDArray[np.float32]
    sample_rate: int = 44100


Reference = ImageReference | VideoReference | AudioReference


class TextEncoder(Protocol):
    """Prompts, and what they refer to, to hidden states."""

    channels: int

    def encode(self, prompts: Sequence[str], references: Sequence[Reference] = ()) -> TextInput:
        """Hidden states [B, N_t, D_text] float32 and their mask; every prompt is read together with all references.

        Raises RequestError for a prompt that is too long and for a reference that the model has no sense for.
        """
        ...

    def to(self, device: str) -> TextEncoder:
        """Move the weights; returns the encoder itself."""
        ...
