"""A refined clip held to the clip that it was refined from: what that one shows, the refined one shows too.

A codec with large cells loses more of a given clip than refining adds. So each refined frame is shrunk to the size of
the given one, and what they differ by is enlarged and added: what the given size can show is the file's own, what is
finer the refiner's. Frames between two given ones take the mean of both differences, by how far they lie from each;
their motion stays the refiner's own. A model whose refiner says so (`held` in its entry) does the same to what it made
itself and decodes at the small size.

Legend: f frames of a chunk, H W refined pixels, h w given pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sky4.media import iterate_video, read_image
from sky4.pipeline.canvas import footage_of
from sky4.pipeline.request import ClipRequest, Source

Frames = NDArray[np.uint8]  # [f, H, W, 3]
Picture = NDArray[np.uint8]  # [h, w, 3]


def grounded(made: Iterator[Frames], given: Iterator[Picture], rate: int) -> Iterator[Frames]:
    """Chunks of refined frames [f, H, W, 3], frame `rate` * i of which shows what the i-th given one does, corrected.

    Behind the last given frame its difference is held. Comes one given frame late, as it looks ahead to the next.
    """
    before: Tensor | None = None
    waiting: list[Tensor] = []  # frames since the last given one, itself first
    number = 0
    for chunk in made:
        for picture in _planes(chunk):
            if number % rate == 0:
                source = next(given, None)
                if source is not None:
                    ahead = _difference(picture, _planes(source[None])[0])
                    if before is not None:
                        yield _corrected(waiting, before, ahead)
                    before, waiting = ahead, []
            waiting.append(picture)
            number += 1
    if waiting:
        assert before is not None, "nothing is given to hold the clip to"
        yield _corrected(waiting, before, before)


def given_pictures(request: ClipRequest) -> Iterator[Picture] | None:
    """The own frames of the clip that a request refines, cut to the refined picture's proportions and no larger than
    it; None where what is refined is made."""
    refinement = request.refinement
    if refinement is None or request.canvas is not None:
        return None
    source: Source | None = None
    if request.video is not None:
        source = Source(request.video, "--video", frames=request.frames)
    elif request.gives_all:
        source = next(s for s in request.sources if s.region is None and s.frames == request.frames)
    if source is None:
        return None
    footage = footage_of(source, request.fps)
    width, height = refinement.width, refinement.height
    share = min(footage.width / width, footage.height / height, 1.0)
    size = max(1, round(width * share)), max(1, round(height * share))
    if source.is_picture:
        return iter([read_image(source.path, size)])
    return islice(iterate_video(source.path, request.fps, size, skip=source.skip), request.frames)


def _difference(made: Tensor, given: Tensor) -> Tensor:
    """[3, h, w] of made [3, H, W] and given [3, h, w]."""
    shrunk = functional.interpolate(made[None], given.shape[1:], mode="bicubic", align_corners=False, antialias=True)
    return given - shrunk[0]


def _corrected(frames: list[Tensor], before: Tensor, ahead: Tensor) -> Frames:
    """Frames [3, H, W] evenly spread from the one that differs by `before` [3, h, w] up to the one of `ahead`."""
    count, size = len(frames), frames[0].shape[1:]
    mixed = torch.stack([torch.lerp(before, ahead, index / count) for index in range(count)])
    large = functional.interpolate(mixed, size, mode="bicubic", align_corners=False)
    pixels = (torch.stack(frames) + large).round_().clamp_(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())


def _planes(frames: Frames) -> Tensor:
    """[f, 3, H, W] of 0..255, float32, of frames [f, H, W, 3]."""
    return torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2).float()
