"""Scaling to cover: the largest centred part of a picture that has the wanted proportions, resampled once."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def cover_box(
    width: int, height: int, size: tuple[int, int], pixel_aspect: Fraction = Fraction(1)
) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the centred part to cut out of a stored picture to fill `size` (width, height).

    pixel_aspect: width of a stored pixel over its height as displayed.
    """
    wanted = Fraction(size[0], size[1]) / pixel_aspect  # in stored pixels
    if Fraction(width, height) > wanted:
        cut_width, cut_height = float(height * wanted), float(height)
    else:
        cut_width, cut_height = float(width), float(width / wanted)
    left, top = (width - cut_width) / 2, (height - cut_height) / 2
    return left, top, left + cut_width, top + cut_height


def fit_picture(
    picture: NDArray[np.uint8], size: tuple[int, int] | None, pixel_aspect: Fraction = Fraction(1)
) -> NDArray[np.uint8]:
    """picture [H, W, 3] covering `size`; None leaves the stored pixels alone, up to their aspect."""
    height, width = picture.shape[:2]
    if size is None:
        size = display_size(width, height, pixel_aspect)
    if size == (width, height) and pixel_aspect == 1:
        return np.ascontiguousarray(picture)
    box = cover_box(width, height, size, pixel_aspect)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS, box=box))


def display_size(width: int, height: int, pixel_aspect: Fraction = Fraction(1)) -> tuple[int, int]:
    """(width, height) in square pixels: the width takes up the pixel's aspect."""
    return max(1, round(width * pixel_aspect)), height
