"""What would be made anew, as a picture: frames of the source on their canvas with the edit region tinted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sky4.errors import RequestError
from sky4.media.destination import check_destination, whole_or_nothing
from sky4.media.mask_frames import Alpha

TINT = np.array([255, 0, 160], np.float32)  # a colour that little in the world has
STRENGTH = 0.6
SHOWN = 9  # frames of a region that moves
GAP = 2  # white pixels between frames
WIDEST = 1920  # pixels of the whole picture


def write_mask_preview(
    path: Path, frames: Iterator[tuple[NDArray[np.uint8], Alpha]], count: int, force: bool = False
) -> int:
    """Write `path`.png: of a region that stays, its first frame; of one that moves, frames of the whole part, row by row.

    frames: `count` pairs of a picture [H, W, 3] and its alpha [H, W]. Returns how many are shown. RequestError for a
    name that is no .png or cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise RequestError(f"--mask-preview {path}: the overlay is a picture; give a name that ends in .png")
    check_destination(path, force)
    picked = set(np.unique(np.linspace(0, count - 1, min(SHOWN, count)).round().astype(int)).tolist())
    moves, first = False, None
    tiles: list[NDArray[np.uint8]] = []
    for number, (picture, alpha) in enumerate(frames):
        if first is None:
            first = alpha
        moves = moves or not (alpha is first or np.array_equal(alpha, first))
        if number in picked:
            tiles.append(_small(tinted(picture, alpha)))
    shown = tiles if moves else tiles[:1]
    with whole_or_nothing(path, force) as partial:
        Image.fromarray(_sheet(shown)).save(partial, format="PNG")
    return len(shown)


def tinted(picture: NDArray[np.uint8], alpha: Alpha) -> NDArray[np.uint8]:
    """The picture with what is made anew tinted; what is kept stays as it is."""
    weight = alpha[..., None].astype(np.float32) * (STRENGTH / 255)
    return np.rint(picture + (TINT - picture) * weight).astype(np.uint8)


def _small(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if picture.shape[1] <= WIDEST:
        return picture
    size = WIDEST, max(1, round(picture.shape[0] * WIDEST / picture.shape[1]))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _sheet(tiles: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Rows of tiles, about as many across as down, the whole no wider than WIDEST."""
    if len(tiles) == 1:
        return tiles[0]
    across = math.ceil(math.sqrt(len(tiles)))
    tiles = [np.pad(tile, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for tile in tiles]
    blank = np.full_like(tiles[0], 255)
    rows = [tiles[at : at + across] for at in range(0, len(tiles), across)]
    rows[-1] += [blank] * (across - len(rows[-1]))
    return _small(np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0))
