"""Made frames laid into the sources' own, frame by frame, and the change of what is kept: before encoding, in the file.

Legend: f frames of a chunk, H W pixels of the canvas.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sky4.media import iterate_video, output_format, read_image
from sky4.media.mask_frames import Alpha
from sky4.pipeline.canvas import Picture, on_canvas
from sky4.pipeline.request import ClipRequest


@dataclass
class Change:
    """How far kept pixels lie from the source's, in steps of 0 to 255 of a channel. Gathered frame by frame."""

    largest: int = 0
    total: int = 0
    values: int = 0  # channel values compared

    def add(self, picture: Picture, source: Picture, alpha: Alpha) -> None:
        """Compare the pixels of one frame that are kept whole."""
        away = np.abs(picture.astype(np.int16) - source)[alpha == 0]
        if away.size:
            self.largest = max(self.largest, int(away.max()))
            self.total += int(away.sum())
            self.values += away.size

    def clear(self) -> None:
        self.largest = self.total = self.values = 0

    @property
    def mean(self) -> float:
        return self.total / self.values if self.values else 0.0


def composite(made: Iterator[NDArray[np.uint8]], request: ClipRequest, change: Change) -> Iterator[NDArray[np.uint8]]:
    """Chunks of made frames [f, h, w, 3] to chunks [f, H, W, 3] on the request's canvas, in the same order.

    What is kept has the sources' own bytes; `change` is told how far that holds.
    """
    assert request.canvas is not None
    size = request.canvas.width, request.canvas.height
    under = kept_frames(request)
    for chunk in made:
        laid = np.empty((len(chunk), size[1], size[0], 3), np.uint8)
        for number, frame in enumerate(chunk):
            source, alpha = next(under)
            laid[number] = lay(source, frame, alpha)
            change.add(laid[number], source, alpha)
        yield laid


def kept_frames(request: ClipRequest) -> Iterator[tuple[Picture, Alpha]]:
    """(picture, alpha) of every frame of the clip, from all sources; where none lies, black with alpha 255."""
    assert request.canvas is not None
    nothing = np.zeros((request.canvas.height, request.canvas.width, 3), np.uint8)
    everywhere = np.full(nothing.shape[:2], 255, np.uint8)
    begins = [request.start_of(source) for source in request.sources]
    laid = [on_canvas(source, request.canvas, request.fps) for source in request.sources]
    for frame in range(request.frames):
        picture, alpha = nothing, everywhere
        for source, begin, frames in zip(request.sources, begins, laid, strict=True):
            if begin <= frame < begin + source.frames:
                mine, edited = next(frames)
                if alpha is everywhere:
                    picture, alpha = mine, edited
                else:  # the later source lies on top
                    picture = lay(mine, picture, edited)
                    alpha = np.where(edited == 0, np.uint8(0), np.minimum(alpha, edited))
        yield picture, alpha


def lay(source: Picture, made: Picture, alpha: Alpha) -> Picture:
    """The made picture, scaled to the source's size, over the source: exactly the source where alpha is 0."""
    if not alpha.any():
        return source
    height, width = source.shape[:2]
    if made.shape != source.shape:
        made = np.asarray(Image.fromarray(np.ascontiguousarray(made)).resize((width, height), Image.Resampling.BICUBIC))
    weight = alpha[..., None].astype(np.uint16)  # 255 * 255 and its rounding fit
    return ((source * (255 - weight) + made * weight + 127) // 255).astype(np.uint8)


def change_in_file(path: Path, request: ClipRequest) -> Change:
    """The change of what is kept in a file that was written, as any player decodes it."""
    change = Change()
    chosen = output_format(path)
    if chosen.still:
        pictures: Iterator[Picture] = iter([read_image(path)])
    elif chosen.muxer:
        pictures = iterate_video(path, request.fps)
    else:
        pictures = (read_image(file) for file in sorted(path.glob("*.png")))
    for picture, (source, alpha) in zip(islice(pictures, request.frames), kept_frames(request), strict=False):
        change.add(picture, source, alpha)
    return change
