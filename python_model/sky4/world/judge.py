"""Whether a made clip shows what a task asked for, and whether all else stayed: analysis by synthesis.

The world's truth is known, so a clip is compared with renders: with the target, and with takes that differ from it in
one fact. *Edited*: of the values of the facts asked for, it is nearest to the target's. *Kept*: of those of the facts
to be left alone, too, and where the source and the target look alike it still looks like the source.

F frames, H = W = size. Pictures are float [F, 3, H, W] in 0..1, or uint8 [F, H, W, 3] of a clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sky4.world.families import Region
from sky4.world.hypotheses import Case, Hypothesis
from sky4.world.render import render_coverage, render_video
from sky4.world.take import Take

Frames = NDArray[np.uint8]

EVERY = 3  # of the frames, one in so many is looked at
BLOCKS = 8  # a side of the picture has so many blocks, each of which may lie a little beside
ASIDE = 1 / 32  # how far, in unit widths: a thing two pixels of 64 off its way is not one of another colour
ALIKE = 1e-5  # mean squared difference below which two takes are not told apart (50 dB)
SAME = 4 / 255  # what differs by less in two renders is the same in both
MARGIN = 1 / 32  # in unit widths: so near a change nothing is expected to be as it was
REACH = 3 / 64  # in unit widths: how much wider than the thing its mask is
LEAST = 0.01  # share of the picture that two takes must have in common to be compared there
BELOW_CODEC = 6.0  # dB that a kept part may be worse than the codec's own round trip


@dataclass(frozen=True)
class Verdict:
    """What became of one clip. nearest_edit, nearest_keep: "" for the target, else the hypothesis it is nearer to.

    chances: of a guess among the hypotheses. psnr: dB against the source where it was to stay, None where nowhere.
    """

    edited: bool
    kept: bool
    nearest_edit: str
    nearest_keep: str
    edited_chance: float
    kept_chance: float
    psnr: float | None = None
    floor: float | None = None

    @property
    def success(self) -> bool:
        return self.edited and self.kept


def judge(case: Case, made: Frames, fps: Fraction | float, codec: Frames | None = None) -> Verdict:
    """Judges a made clip uint8 [F, H, W, 3]. `codec`: the truth after the codec's round trip, which bounds what can be
    asked of kept pixels; without it they are only measured."""
    view = _View(case, len(made), float(fps), made.shape[1])
    truth = view.truth()
    seen = _planes(made[::EVERY])
    slack = case.target.talker is None  # a head stands still, and what its face does is smaller than a block
    near = _Nearness(seen, slack)
    edit, edited_chance = _nearest(case.edits, truth, view, near)
    keep, kept_chance = _nearest(case.keeps, truth, view, near)
    common = view.common(truth)
    psnr = floor = None
    if common is not None:
        source = view.source()
        psnr = _psnr(seen, source, common)
        floor = None if codec is None else _psnr(_planes(codec[::EVERY]), source, common) - BELOW_CODEC
    held = psnr is None or floor is None or psnr >= floor
    return Verdict(not edit, not keep and held, edit, keep, edited_chance, kept_chance, psnr, floor)


def truth_of(case: Case, frames: int, fps: Fraction | float, size: int) -> Frames:
    """The clip that the case asks for, all frames of it; in a row with a mask, the source outside."""
    planes = _View(case, frames, float(fps), size, every=1).truth()
    return np.asarray(planes.permute(0, 2, 3, 1).mul(255).round().byte().numpy(), np.uint8)


def edit_mask(take: Take, region: Region, times: Tensor, size: int) -> Tensor:
    """What is made anew, bool [F, H, W]: the moving thing and a little around it, or all that it does not touch."""
    covered = render_coverage(take, -1, times, size)
    if region == "surroundings":
        return covered == 0
    reach = 2 * round(REACH * size) + 1
    return functional.max_pool2d(covered[:, None], reach, 1, reach // 2)[:, 0] > 0


class _View:
    """The case's takes as they look at the frames that are compared."""

    def __init__(self, case: Case, frames: int, fps: float, size: int, every: int = EVERY) -> None:
        self.case, self.size = case, size
        self.rate = fps / every
        self.count = len(range(0, frames, every))
        self.mask: Tensor | None = None
        if case.region != "none":
            assert case.source is not None
            times = case.start + torch.arange(self.count) / self.rate
            self.mask = edit_mask(case.source, case.region, times, size)[:, None]

    def _drawn(self, take: Take) -> Tensor:
        pixels = render_video([take], self.count, self.rate, self.size, self.case.start)[0]
        return pixels.permute(1, 0, 2, 3).contiguous().add_(1).div_(2)

    def of(self, take: Take) -> Tensor:
        """A take, where a mask lets it show."""
        return self._drawn(take) if self.mask is None else torch.where(self.mask, self._drawn(take), self.source())

    def truth(self) -> Tensor:
        return self.of(self.case.target)

    def source(self) -> Tensor:
        """What the source shows; one moment of it, held, where only that is given."""
        assert self.case.source is not None
        if self.case.held is None:
            return self._drawn(self.case.source)
        moment = render_video([self.case.source], 1, self.rate, self.size, self.case.held)[0]
        return moment.permute(1, 0, 2, 3).add(1).div(2).expand(self.count, -1, -1, -1)

    def common(self, truth: Tensor) -> Tensor | None:
        """Where source and truth show the same, bool [F, 1, H, W]; None where that is next to nowhere."""
        if self.case.source is None:
            return None
        differs = (self.source() - truth).abs().amax(1, keepdim=True) > SAME
        reach = 2 * round(MARGIN * self.size) + 1
        same = functional.max_pool2d(differs.float(), reach, 1, reach // 2) == 0
        return same if float(same.float().mean()) >= LEAST else None


class _Nearness:
    """How far renders are from one clip, blurred, each block at the best of a few displacements."""

    def __init__(self, clip: Tensor, slack: bool) -> None:
        size = clip.shape[-1]
        aside = round(ASIDE * size) if slack else 0
        wide = functional.pad(clip, (aside,) * 4, mode="replicate")
        steps = (0, aside, 2 * aside) if aside else (0,)
        self.shifted = torch.stack([_soft(wide[..., y : y + size, x : x + size]) for y in steps for x in steps])
        self.block = max(1, self.shifted.shape[-1] // BLOCKS)

    def __call__(self, render: Tensor) -> float:
        """Mean squared difference, of values in 0..1, from a render that is blurred already."""
        error = (self.shifted - render).square().mean(2)  # [S, F, h, w]
        return float(functional.avg_pool2d(error, self.block).amin(0).mean())


def _nearest(hypotheses: Sequence[Hypothesis], truth: Tensor, view: _View, near: _Nearness) -> tuple[str, float]:
    """(the name of the hypothesis that is nearer than the truth, "" for none; the chance of a guess)."""
    soft = _soft(truth)
    best, name, count = near(soft), "", 1
    for hypothesis in hypotheses:
        picture = torch.lerp(soft, _soft(view.of(hypothesis.take)), hypothesis.share)
        if float((picture - soft).square().mean()) < ALIKE:
            continue  # it looks like the truth, so it is no other hypothesis
        count += 1
        distance = near(picture)
        if distance <= best:
            best, name = distance, hypothesis.name
    return name, 1 / count


def _soft(planes: Tensor) -> Tensor:
    """Blurred by a pixel or so of 64, so that half a pixel does not decide; every other pixel of that."""
    reach = max(1, round(planes.shape[-1] / 64))
    for stride in (1, 2):
        padded = functional.pad(planes, (reach,) * 4, mode="replicate")
        planes = functional.avg_pool2d(padded, 2 * reach + 1, stride)
    return planes


def _planes(frames: Frames) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float().div(255)


def _psnr(clip: Tensor, reference: Tensor, where: Tensor) -> float:
    """dB over the pixels `where`, a clip's values as good as 8 bits are; at most 99."""
    error = float(((clip - reference).square() * where).sum() / (3 * where.sum()))
    return min(99.0, -10 * float(np.log10(max(error, 1e-12))))
