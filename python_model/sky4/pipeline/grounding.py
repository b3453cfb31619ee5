"""A refined clip held to the clip that it was refined from: what that one shows, the refined one shows too.

A codec with large cells loses more of a given clip than refining adds. So each refined frame is shrunk to the size of
the given one, and what they differ by is enlarged and added: what the given size can show is the file's own, what is
finer the refiner's. Between two given frames, what stands still in both shows their mean; elsewhere the mean of both
differences is added, so that what moves there is the refiner's own. A model whose refiner says so (`held` in its entry)
does the same to what it made itself and decodes at the small size.

Legend: f frames of a chunk, H W refined pixels, h w given pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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

NOISE, MOVING = 8.0, 40.0  # of 255: what differs by less stands still, what differs by more moves
AROUND = 2  # pixels beside what moves that move with it


def grounded(made: Iterator[Frames], given: Iterator[Picture], rate: int) -> Iterator[Frames]:
    """Chunks of refined frames [f, H, W, 3], frame `rate` * i of which shows what the i-th given one does, corrected.

    Behind the last given frame its difference is held. Comes one given frame late, as it looks ahead to the next.
    """
    before: _Given | None = None
    waiting: list[Tensor] = []  # frames since the last given one, itself first
    number = 0
    for chunk in made:
        for picture in _planes(chunk):
            if number % rate == 0:
                source = next(given, None)
                if source is not None:
                    shown = _planes(source[None])[0]
                    ahead = _Given(shown, shown - _shrunk(picture, shown))
                    if before is not None:
                        yield _corrected(waiting, before, ahead)
                    before, waiting = ahead, []
            waiting.append(picture)
            number += 1
    if waiting:
        assert before is not None, "nothing is given to hold the clip to"
        yield _corrected(waiting, before, before)


@dataclass(frozen=True)
class _Given:
    """A given frame [3, h, w], and what the refined one differs from it by."""

    shown: Tensor
    difference: Tensor


def given_pictures(request: ClipRequest) -> Iterator[Picture] | None:
    """The own frames of the clip that a request refines, cut to the refined picture's proportions and no larger than
    it; None where what is refined is made."""
    refinement, source = request.refinement, request.given_whole
    if request.video is not None:
        source = Source(request.video, "--video", frames=request.frames)
    if refinement is None or source is None or not request.shows_given:
        return None
    footage = footage_of(source, request.fps)
    width, height = refinement.width, refinement.height
    share = min(footage.width / width, footage.height / height, 1.0)
    size = max(1, round(width * share)), max(1, round(height * share))
    if source.is_picture:
        return iter([read_image(source.path, size)])
    return islice(iterate_video(source.path, request.fps, size, skip=source.skip), request.frames)


def _shrunk(made: Tensor, given: Tensor) -> Tensor:
    """[3, H, W] at the size of given [3, h, w]."""
    size = given.shape[1:]
    return functional.interpolate(made[None], size, mode="bicubic", align_corners=False, antialias=True)[0]


def _corrected(frames: list[Tensor], before: _Given, ahead: _Given) -> Frames:
    """Frames [3, H, W] evenly spread from the one that shows `before` up to the one that shows `ahead`."""
    count, size = len(frames), frames[0].shape[1:]
    still = _stillness(before.shown, ahead.shown)
    differences = [before.difference]
    for index, frame in enumerate(frames[1:], 1):
        shown = torch.lerp(before.shown, ahead.shown, index / count)
        moving = torch.lerp(before.difference, ahead.difference, index / count)
        differences.append(torch.lerp(moving, shown - _shrunk(frame, shown), still))
    large = functional.interpolate(torch.stack(differences), size, mode="bicubic", align_corners=False)
    pixels = (torch.stack(frames) + large).round_().clamp_(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())


def _stillness(before: Tensor, ahead: Tensor) -> Tensor:
    """[1, h, w]: 1 where two frames [3, h, w] of 0..255 and what lies around differ by noise, 0 where they move."""
    change = (ahead - before).abs().amax(0, keepdim=True)
    around = functional.max_pool2d(change[None], 2 * AROUND + 1, stride=1, padding=AROUND)[0]
    return ((MOVING - around) / (MOVING - NOISE)).clamp(0, 1)


def _planes(frames: Frames) -> Tensor:
    """[f, 3, H, W] of 0..255, float32, of frames [f, H, W, 3]."""
    return torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2).float()
