"""A video is decoded in smaller and smaller pieces until they fit: nothing but the decoding is done again.

B batch   f frames of a chunk   H W pixels   T latent frames   h w latent grid   C latent channels
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sky4.errors import Sky4Failure

if TYPE_CHECKING:
    from sky4.encoders.protocols import TiledCodec

log = logging.getLogger("sky4")


@dataclass(frozen=True)
class Tiling:
    """How finely a video is decoded: so many latent frames at once, in tiles of `side` pixels; None: as the codec
    does by itself."""

    latent_frames: int | None = None
    side: int | None = None

    def __str__(self) -> str:
        frames = "" if self.latent_frames is None else f"{self.latent_frames} latent frame at a time"
        tiles = "" if self.side is None else f"tiles of {self.side} pixels"
        return ", ".join(part for part in (frames, tiles) if part) or "whole frames"


WHOLE = Tiling()


class SmallerTiles:
    """A video codec that goes down a ladder of tilings where memory runs out, and stays there.

    rung: where it stands; 0 is the codec's own way. Other calls go to the codec as they are.
    """

    def __init__(self, codec: TiledCodec) -> None:
        self.codec = codec
        self.channels = codec.channels
        self.spatial_compression = codec.spatial_compression
        self.temporal_compression = codec.temporal_compression
        self.rung = 0

    def encode(self, pixels: Tensor) -> Tensor:
        return self.codec.encode(pixels)

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """As VideoCodec. Sky4Failure where memory runs out on the last rung too."""
        ladder = self.codec.ladder(latents)
        self.codec.decode(latents, ladder[0])  # says at once what is wrong with the latents
        return self._decoded(latents, ladder)

    def _decoded(self, latents: Tensor, ladder: Sequence[Tiling]) -> Iterator[Tensor]:
        shown = 0  # frames that were passed on
        while True:
            tiling = ladder[min(self.rung, len(ladder) - 1)]
            at = 0
            try:
                for chunk in self.codec.decode(latents, tiling):
                    first, at = at, at + chunk.shape[2]
                    if at > shown:
                        rest, shown = chunk[:, :, max(0, shown - first) :], at
                        yield rest
                return
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            if self.rung + 1 >= len(ladder):
                raise Sky4Failure(
                    f"memory ran out while decoding, even with {tiling}; free some (--resume-dir keeps the latents, "
                    "and --resume then decodes them alone), or ask for a smaller --size"
                )
            self.rung += 1  # outside of the handler, whose error holds what is to be let go of
            log.warning(f"memory ran out while decoding ({tiling}); going on with {ladder[self.rung]}")
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def decode_smaller(self, rung: int) -> bool:
        """Begin on this rung of the ladder at least; whether that changes anything."""
        changes = rung > self.rung
        self.rung = max(self.rung, rung)
        return changes

    def black(self, frames: int, height: int, width: int) -> Tensor:
        return self.codec.black(frames, height, width)

    def to(self, device: str) -> SmallerTiles:
        self.codec.to(device)
        return self


def out_of_memory(error: BaseException) -> bool:
    """Of a device, of torch on the CPU (a plain RuntimeError there), or of Python."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def spans(length: int, size: int) -> list[tuple[int, int]]:
    """[begin, end) of pieces of `size` that cover `length`, overlapping by a quarter at least, all of them equal."""
    if length <= size:
        return [(0, length)]
    stride = max(1, size - size // 4)
    count = -(-(length - size) // stride) + 1
    begins = [round(piece * (length - size) / (count - 1)) for piece in range(count)]
    return [(begin, begin + size) for begin in begins]


def decode_tiles(
    latents: Tensor, side: int, size: tuple[int, int], decoded: Callable[[Tensor], Iterator[Tensor]]
) -> Iterator[Tensor]:
    """Chunks [B, 3, f, H, W], on the CPU, of latents [B, C, T, h, w] that are decoded in tiles of `side` pixels.

    size: (pixel frames in all, pixels of a latent cell). decoded: what makes the chunks of one tile.

    One tile after the other, through all of its time: what a causal decoder carries from chunk to chunk weighs more
    than the pixels, which are held in half precision, on the host. Neighbours are blended over what they share.
    """
    frames, cell = size
    height, width = latents.shape[-2:]
    rows, columns = (spans(length, max(1, side // cell)) for length in (height, width))
    laid = torch.zeros(len(latents), 3, frames, height * cell, width * cell, dtype=torch.float16)
    lengths: list[int] = []  # of the chunks
    for (top, bottom), down in zip(rows, _weights(rows, cell), strict=True):
        for (left, right), across in zip(columns, _weights(columns, cell), strict=True):
            room = laid[..., top * cell : bottom * cell, left * cell : right * cell]
            weight, lengths = down[:, None] * across, []
            for chunk in decoded(latents[..., top:bottom, left:right]):
                begin = sum(lengths)
                lengths.append(chunk.shape[2])
                room[:, :, begin : begin + lengths[-1]] += (chunk.float().cpu() * weight).half()
    for part in laid.split(lengths, dim=2):
        yield part.float()


def _weights(pieces: list[tuple[int, int]], compression: int) -> list[Tensor]:
    """For each piece a weight per pixel, falling towards its neighbours; together 1 everywhere."""
    total = torch.zeros(pieces[-1][1] * compression)
    ramps = []
    for begin, end in pieces:
        at = torch.arange((end - begin) * compression) + 0.5
        rise = at if begin > 0 else torch.full_like(at, len(at))
        fall = len(at) - at if end < pieces[-1][1] else torch.full_like(at, len(at))
        share = (end - begin) * compression / 4  # of a tile: what neighbours share at least
        # the outermost pixels, which know nothing of what is beside them, count for nothing
        ramps.append((2 * torch.minimum(rise, fall) / share - 0.5).clamp(0.0, 1.0))
        total[begin * compression : end * compression] += ramps[-1]
    return [
        ramp / total[begin * compression : end * compression] for ramp, (begin, end) in zip(ramps, pieces, strict=True)
    ]
