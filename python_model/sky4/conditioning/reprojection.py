"""A first guess at another shot: the last frame before the cut, seen as the transition's camera would see it.

Nearer, from further away, or from behind and aslant, as if all that is seen lay in one plane. It is a guess: what
moved, what it hides and what lies beyond the old frame is the model's to make. (Models that a camera steers are
conditioned so: what is known is warped, and made anew where it does not hold.)

Legend: B batch, C latent channels, F pixel frames, H W pixels, h w latent grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sky4.shots.kinds import Content

SEEN_MOVING = 5  # frames before the cut from which it is told what moves
STIR = 0.01  # mean change of a pixel from frame to frame (of 2) below which nothing does


@dataclass(frozen=True)
class View:
    """width: how much of the old frame's width the new one shows. follows: about what moves, not about the middle.
    behind: mirrored. lean: of the camera, in radians."""

    width: float
    follows: bool = False
    behind: bool = False
    lean: float = 0.0


VIEWS: dict[Content, View] = {
    "cut-in": View(0.5, follows=True),
    "cut-out": View(2.0),
    "multi-angle": View(1.0, behind=True, lean=0.2),
}  # the others show another subject


@dataclass(frozen=True)
class ShotGuess:
    """latents [B, C, 1, h, w] of a still, held through the shot; known [B]: whether it is one, or nothing is known."""

    latents: Tensor
    known: Tensor

    def to(self, device: torch.device) -> ShotGuess:
        return ShotGuess(self.latents.to(device), self.known.to(device))

    def part(self, rows: slice) -> ShotGuess:
        return ShotGuess(self.latents[rows], self.known[rows])


def guess_shot(frames: Tensor, kinds: Sequence[Content], encode: Callable[[Tensor], Tensor]) -> ShotGuess:
    """What the shots behind frames [B, 3, F, H, W] in [-1, 1] may look like, of one transition each.

    encode: stills [B, 3, H, W] to the latents [B, C, 1, h, w] of shots in which nothing moves.
    """
    views = [VIEWS.get(kind, View(1.0)) for kind in kinds]
    stills = torch.stack([seen(film, view) for film, view in zip(frames, views, strict=True)])
    return ShotGuess(encode(stills), guessable(kinds).to(frames.device))


def guessable(kinds: Sequence[Content]) -> Tensor:
    """[B]: which transitions lead to what was seen before."""
    return torch.tensor([kind in VIEWS for kind in kinds])


def seen(film: Tensor, view: View) -> Tensor:
    """The last of the frames [3, F, H, W] in that view [3, H, W]; beyond its edges they go on."""
    height, width = film.shape[2:]
    x, y = _moving(film) if view.follows else (0.0, 0.0)
    room = max(0.0, 1.0 - view.width)  # about what moves, but inside the frame
    cos, sin = view.width * math.cos(view.lean), view.width * math.sin(view.lean)
    side, tall = -1.0 if view.behind else 1.0, height / width
    matrix = [[side * cos, -sin * tall, x * room], [side * sin / tall, cos, y * room]]
    theta = torch.tensor([matrix], dtype=film.dtype, device=film.device)
    grid = functional.affine_grid(theta, [1, 3, 2 * height, 2 * width], align_corners=False)
    last = film[None, :, -1]
    finely = functional.grid_sample(last, grid, padding_mode="border", align_corners=False)
    return functional.avg_pool2d(finely, 2)[0]


def _moving(film: Tensor) -> tuple[float, float]:
    """(x, y) of the middle of what changes in the last of the frames [3, F, H, W], each -1 to 1 from edge to edge; the
    frame's middle where nothing does."""
    change = film[:, -SEEN_MOVING:].diff(dim=1).abs().mean((0, 1))  # [H, W]; no frames but one: not a number
    if film.shape[1] < 2 or float(change.mean()) < STIR:
        return 0.0, 0.0
    across, along = (torch.linspace(-1, 1, size, dtype=film.dtype, device=film.device) for size in film.shape[2:][::-1])
    total = change.sum()
    return float((change.sum(0) @ across) / total), float((change.sum(1) @ along) / total)
