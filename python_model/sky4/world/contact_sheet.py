"""Many clips on one picture: a row for each, with some frames, its events, what was asked for and what came out."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sky4.world.evaluate import MeasuredClip, Prompt, verdict

COLUMNS = 8  # frames of a clip
CELL = 64  # pixels of a frame, at least
STRIP = 9  # pixels of the line of time under the frames
TEXT = 330  # pixels of the words beside them
PAPER, INK, GOOD, BAD, SEEN, HEARD = "#16181d", "#d8dbe2", "#6fd08c", "#ff7a70", "#ffffff", "#ffd257"


@dataclass(frozen=True)
class Row:
    """One clip on the sheet; `frames` are the few that `pick_frames` took, [COLUMNS, H, W, 3]."""

    prompt: Prompt
    clip: MeasuredClip
    frames: NDArray[np.uint8]


def pick_frames(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """COLUMNS frames of [F, H, W, 3], evenly spread from the first to the last."""
    return frames[np.linspace(0, len(frames) - 1, COLUMNS).round().astype(int)].copy()


def contact_sheet(rows: Sequence[Row]) -> Image.Image:
    """Prompts are rows, frames are columns. Under the frames: white ticks where something was seen to happen, yellow
    ones where it was heard. Words in green were obeyed, words in red were not."""
    if not rows:
        raise ValueError("a contact sheet needs at least one clip, got none")
    cell = max(CELL, rows[0].frames.shape[1])
    height = cell + STRIP + 6
    sheet = Image.new("RGB", (COLUMNS * (cell + 2) + TEXT, len(rows) * height), PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=10)
    for number, row in enumerate(rows):
        top = number * height + 2
        for column, frame in enumerate(row.frames):
            thumbnail = Image.fromarray(frame).resize((cell, cell), Image.Resampling.NEAREST)
            sheet.paste(thumbnail, (column * (cell + 2), top))
        _draw_events(pen, row.clip, top + cell + 1, COLUMNS * (cell + 2) - 2)
        _draw_words(pen, font, row, COLUMNS * (cell + 2) + 6, top)
    return sheet


def _draw_events(pen: ImageDraw.ImageDraw, clip: MeasuredClip, y: int, width: int) -> None:
    pen.line((0, y + STRIP // 2, width, y + STRIP // 2), fill="#50545e")
    seen = clip.video.events if clip.video else ()
    heard = clip.audio.onsets if clip.audio else ()
    for times, colour, above, below in ((seen, SEEN, 0, STRIP // 2), (heard, HEARD, STRIP // 2, STRIP)):
        for time in times:
            x = time / clip.seconds * width
            pen.line((x, y + above, x, y + below), fill=colour, width=2)


def _draw_words(
    pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, row: Row, x: int, y: int
) -> None:
    for line in textwrap.wrap(_readable(row.prompt), 62)[:4]:
        pen.text((x, y), line, fill=INK, font=font)
        y += 12
    at = x
    for name, right in verdict(row.prompt, row.clip).items():
        pen.text((at, y), name, fill=GOOD if right else BAD, font=font)
        at += int(pen.textlength(name + "  ", font=font))
    if row.clip.video is not None and row.clip.audio is not None:
        pairing = row.clip.pairing
        told = f"{1000 * pairing.offset:.0f} ms" if pairing.offsets else "no match"
        pen.text((x, y + 12), f"median |offset| {told}, {len(pairing.offsets)} matched", fill=INK, font=font)


def _readable(prompt: Prompt) -> str:
    """The prompt; of a Chinese one, whose script the font lacks, the facts that it states."""
    if prompt.text.isascii():
        return prompt.text
    asked = prompt.asked
    words = (
        asked.size,
        asked.colour,
        asked.shape,
        asked.motion,
        asked.drift,
        asked.tempo,
        asked.background,
        asked.material,
    )
    return "(Chinese) " + ", ".join(word for word in words if word and word != "none")
