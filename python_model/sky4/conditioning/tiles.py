"""Latents in overlapping tiles, for clips whose tokens do not fit at once, and tiles blended into one again.

Legend: B batch, C latent channels, T latent frames, H W latent grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor

Box = tuple[int, int, int]  # (T, H, W) in latent cells


@dataclass(frozen=True)
class Tiling:
    """The most latent cells (T, H, W) of a tile, and how many of them two neighbours share."""

    most: Box
    overlap: Box

    def __post_init__(self) -> None:
        for name, most, overlap in zip(("frames", "rows", "columns"), self.most, self.overlap, strict=True):
            if not 0 <= overlap < most:
                raise ValueError(f"a tile of {most} {name} cannot share {overlap} of them with the next; share fewer")


@dataclass(frozen=True)
class Span:
    """The cells [begin, end) of one axis, and the weight [end - begin] of each: falling towards its neighbours."""

    begin: int
    end: int
    weight: Tensor

    @property
    def cells(self) -> slice:
        return slice(self.begin, self.end)


Tile = tuple[Span, Span, Span]
Cut = tuple[EllipsisType, slice, slice, slice]  # what a tensor is indexed with


def tiles(grid: Box, tiling: Tiling, patch: int = 1) -> list[Tile]:
    """Tiles that cover the grid, whose weights sum to 1 in every cell; in space they begin on whole patches."""
    units = (1, patch, patch)
    axes = [spans(*axis) for axis in zip(grid, tiling.most, tiling.overlap, units, strict=True)]
    return list(itertools.product(*axes))  # type: ignore[arg-type]


def spans(length: int, most: int, overlap: int, unit: int = 1) -> list[Span]:
    """Spans of at most `most` cells, evenly spread, which share at least `overlap` cells (less where units round)."""
    most = min(max(unit, most // unit * unit), length)
    count = 1 if most == length else 1 + math.ceil((length - most) / max(unit, (most - overlap) // unit * unit))
    begins = [round(i * (length - most) / max(1, count - 1) / unit) * unit for i in range(count)]
    rises = []
    for index, begin in enumerate(begins):
        at = torch.arange(begin, begin + most, dtype=torch.float32) + 0.5
        before = begins[index - 1] + most if index else None
        after = begins[index + 1] if index + 1 < count else None
        rise = torch.ones(most)
        if before is not None:
            rise = torch.minimum(rise, (at - begin) / max(before - begin, 1))
        if after is not None:
            rise = torch.minimum(rise, (begin + most - at) / max(begin + most - after, 1))
        rises.append(torch.sin(rise.clamp(0, 1) * (math.pi / 2)) ** 2)  # no kink where a neighbour sets in
    total = torch.zeros(length)
    for begin, rise in zip(begins, rises, strict=True):
        total[begin : begin + most] += rise
    return [
        Span(begin, begin + most, rise / total[begin : begin + most]) for begin, rise in zip(begins, rises, strict=True)
    ]


def blended(latents: Tensor, cut: list[Tile], apply: Callable[[Cut], Tensor]) -> Tensor:
    """The sum of `apply` over the tiles by their weights, shaped as latents [B, C, T, H, W].

    apply is given what cuts a tile out of any [B, ..., T, H, W], and returns its part [B, C, t, h, w].
    """
    if len(cut) == 1:
        return apply(cells_of(cut[0]))
    whole = torch.zeros_like(latents)
    for tile in cut:
        time, rows, columns = (span.weight.to(latents) for span in tile)
        weight = time[:, None, None] * rows[:, None] * columns
        whole[cells_of(tile)] += weight * apply(cells_of(tile))
    return whole


def cells_of(tile: Tile) -> Cut:
    """What cuts a tile out of any tensor that ends in (T, H, W)."""
    time, rows, columns = tile
    return ..., time.cells, rows.cells, columns.cells
