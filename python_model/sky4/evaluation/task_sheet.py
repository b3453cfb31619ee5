"""Cases of tasks on one picture: a line for each, with what was given, what was made, and the truth."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sky4.world.contact_sheet import BAD, CELL, GOOD, INK, PAPER
from sky4.world.judge import Verdict

Frames = NDArray[np.uint8]

GIVEN, MADE = 6, 5  # columns of the inputs together, of the made clip, and of the truth
OF_A_FILM = 3  # columns of a video that is given
GAP, TEXT = 10, 330  # pixels between the parts, and of the words
MADE_ANEW = np.array([255, 60, 190], np.float32)  # what lies in a mask is tinted so


@dataclass(frozen=True)
class SheetLine:
    """One case, of each clip the few frames [K, H, W, 3] that are drawn."""

    task: str
    prompt: str
    shown: list[Frames]
    made: Frames
    truth: Frames
    verdict: Verdict


def sheet_line(
    task: str,
    prompt: str,
    shown: Sequence[Frames],
    mask: NDArray[np.bool_] | None,
    made: Frames,
    truth: Frames,
    verdict: Verdict,
) -> SheetLine:
    """A line from whole clips; shown: the videos and stills that are given, mask [F, H, W] of the first one."""
    given = [_picked(_tinted(film, None if number else mask), OF_A_FILM) for number, film in enumerate(shown)]
    return SheetLine(task, prompt, given, _picked(made, MADE), _picked(truth, MADE), verdict)


def task_sheet(lines: Sequence[SheetLine]) -> Image.Image:
    """Inputs, made and truth from left to right; in green what was obeyed, in red what was not, and what it is like."""
    if not lines:
        raise ValueError("a contact sheet needs at least one case, got none")
    cell, height = CELL + 2, CELL + 6
    width = (GIVEN + 2 * MADE) * cell + 2 * GAP + TEXT
    sheet = Image.new("RGB", (width, len(lines) * height), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=10)
    for number, line in enumerate(lines):
        top = number * height + 2
        given = [frame for film in line.shown for frame in film][:GIVEN]
        starts = (0, GIVEN * cell + GAP, (GIVEN + MADE) * cell + 2 * GAP)
        parts: tuple[Sequence[Frames], ...] = (given, list(line.made), list(line.truth))
        for left, frames in zip(starts, parts, strict=True):
            for column, frame in enumerate(frames):
                thumbnail = Image.fromarray(frame).resize((CELL, CELL), Image.Resampling.NEAREST)
                sheet.paste(thumbnail, (left + column * cell, top))
        _draw_words(pen, font, line, width - TEXT + 4, top)
    return sheet


def _draw_words(
    pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, line: SheetLine, x: int, y: int
) -> None:
    prompt = line.prompt if line.prompt.isascii() else "(Chinese)"  # whose script the font lacks
    for text in [line.task, *textwrap.wrap(prompt, 62)[:2]]:
        pen.text((x, y), text, fill=INK, font=font)
        y += 12
    verdict = line.verdict
    for name, right, instead in (
        ("edited", verdict.edited, verdict.nearest_edit),
        ("kept", verdict.kept, verdict.nearest_keep),
    ):
        pen.text((x, y), f"{name}{f' (rather {instead})' if instead else ''}", fill=GOOD if right else BAD, font=font)
        y += 12


def _picked(frames: Frames, count: int) -> Frames:
    return frames if len(frames) <= count else frames[np.linspace(0, len(frames) - 1, count).round().astype(int)].copy()


def _tinted(film: Frames, mask: NDArray[np.bool_] | None) -> Frames:
    if mask is None:
        return film
    return np.where(mask[..., None], film * 0.5 + MADE_ANEW * 0.5, film).astype(np.uint8)
