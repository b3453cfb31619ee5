"""Sources on the canvas, frame by frame and at its own size: their pictures, and the alpha of what is made anew.

Legend: F frames, H W pixels of the canvas, h w pixels that the model works at.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import repeat

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sky4.errors import RequestError
from sky4.media import iterate_video, probe_image, probe_video, read_image
from sky4.media.mask_frames import Alpha, Footage, canvas_of, covered, edit_frames
from sky4.pipeline.request import Canvas, Source

Picture = NDArray[np.uint8]  # [H, W, 3]


def footage_of(source: Source, fps: Fraction) -> Footage:
    """The source's own size and length. RequestError where it cannot be read."""
    if source.is_picture:
        width, height = probe_image(source.path)
        return Footage(width, height, fps, 1, fps, 1)
    facts = probe_video(source.path)
    return Footage(facts.width, facts.height, facts.fps, facts.frames, fps, source.frames, source.skip)


def on_canvas(source: Source, canvas: Canvas, fps: Fraction) -> Iterator[tuple[Picture, Alpha]]:
    """(picture, alpha) of each of the source's frames; beside the source's picture the canvas is black, alpha 255.

    The last frame of a source that ends early is held.
    """
    footage = footage_of(source, fps)
    left, top, width, height = canvas_of(source.region, footage)
    fits = width - canvas.width in (0, 1) and height - canvas.height in (0, 1)  # a column or row is cut off
    pictures = _pictures(source, fps, None if fits else (canvas.width, canvas.height))
    if source.region is not None:
        alphas = edit_frames(source.region, footage)
    else:
        alphas = repeat(np.zeros((canvas.height, canvas.width), np.uint8), source.frames)
    picture = next(pictures, None)
    if picture is None:
        raise RequestError(f"{source.flag} {source.path} ends before the part that is taken begins; begin earlier")
    for alpha in alphas:
        laid = picture
        if (picture.shape[1], picture.shape[0]) != (canvas.width, canvas.height):
            laid = _placed(picture, left, top, canvas)
        yield laid, alpha[: canvas.height, : canvas.width]
        picture = next(pictures, picture)


def condition_frames(
    source: Source, canvas: Canvas, fps: Fraction, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """(frames [F, h, w, 3], kept [F, h, w]) at `size` (width, height): what the codec is given of a source.

    Its receptive field is wider than a latent cell, so what stands in edited pixels shows in the cells beside them.
    They are filled with the nearest kept pixel: nothing of what is to go leaks into what is kept. Black in its place
    would leak as much as the old picture: in the tiny model's latents, of unit deviation, kept cells beside an object
    that is taken out lie 0.25 (untouched), 0.21 (black) and 0.01 (filled) from those of the scene without it.
    """
    fill = _Fill()
    frames: list[Picture] = []
    kept: list[NDArray[np.bool_]] = []
    waiting = 0  # frames at the head of which nothing is kept: the first to come stands in for them
    for picture, alpha in on_canvas(source, canvas, fps):
        filled = fill(picture, alpha)
        kept.append(~covered(alpha, size))
        if filled is not None:
            frames += [np.asarray(Image.fromarray(filled).resize(size, Image.Resampling.LANCZOS))] * (waiting + 1)
            waiting = 0
        elif frames:
            frames.append(frames[-1])
        else:
            waiting += 1
    frames += [np.zeros((size[1], size[0], 3), np.uint8)] * waiting
    return np.stack(frames), np.stack(kept)


class _Fill:
    """Puts the nearest kept pixel in the place of each edited one; where to look is found once for a still region."""

    def __init__(self) -> None:
        self._alpha: Alpha | None = None
        self._box = (slice(0), slice(0))
        self._nearest: NDArray[np.int32] | None = None

    def __call__(self, picture: Picture, alpha: Alpha) -> Picture | None:
        """None where nothing of the picture is kept."""
        if alpha is not self._alpha:
            self._alpha = alpha
            self._find(alpha > 0)
        if self._nearest is None:
            return picture if not alpha.any() else None
        filled = picture.copy()
        rows, columns = self._nearest
        filled[self._box] = picture[self._box][rows, columns]
        return filled

    def _find(self, edited: NDArray[np.bool_]) -> None:
        self._nearest = None
        if not edited.any() or edited.all():
            return
        from scipy.ndimage import distance_transform_edt  # loaded only where it is used

        # one pixel around the region holds the nearest of all that lies outside
        down, across = (np.flatnonzero(edited.any(axis=axis)) for axis in (1, 0))
        self._box = slice(max(0, down[0] - 1), down[-1] + 2), slice(max(0, across[0] - 1), across[-1] + 2)
        self._nearest = distance_transform_edt(edited[self._box], return_distances=False, return_indices=True)


def _pictures(source: Source, fps: Fraction, size: tuple[int, int] | None) -> Iterator[Picture]:
    if source.is_picture:
        return iter([read_image(source.path, size)])
    return iterate_video(source.path, fps, size, skip=source.skip)


def _placed(picture: Picture, left: int, top: int, canvas: Canvas) -> Picture:
    laid = np.zeros((canvas.height, canvas.width, 3), np.uint8)
    room = laid[top : top + picture.shape[0], left : left + picture.shape[1]]
    room[:] = picture[: room.shape[0], : room.shape[1]]
    return laid
