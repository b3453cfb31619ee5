"""What goes beside a film: an edit decision list (CMX3600), subtitles (SRT), a contact sheet."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from fractions import Fraction
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sky4.film.plan import FilmPlan, PlannedShot
from sky4.prompting import parse

COLUMNS, CELL, TEXT = 6, 96, 360  # frames of a shot on the sheet, their largest side in pixels, pixels of the words
PAPER, INK = "#16181d", "#d8dbe2"


def edl(plan: FilmPlan) -> str:
    """The film as CMX3600: one event a shot, two where it dissolves or is wiped in, black between two that fade.

    A push, which CMX3600 has not, is written as a wipe and told in a remark. Reels are S001, S002 ...; their clips'
    timecodes begin at 00:00:00:00, as does the film's.
    """
    rate = ceil(plan.fps)
    track = "AA/V" if plan.sound else "V"

    def event(number: int, reel: str, kind: str, length: int, source: tuple[int, int], record: tuple[int, int]) -> str:
        spans = " ".join(timecode(frame, rate) for frame in (*source, *record))
        return f"{number:03d}  {reel:<8} {track:<5} {kind:<4} {f'{length:03d}' if length else '   '} {spans}"

    lines = [f"TITLE: {_plain(plan.title)[:70]}", "FCM: NON-DROP FRAME", f"* FRAME RATE: {plan.fps}", ""]
    number = 0
    for shot in plan.shots:
        before = plan.shots[shot.number - 1] if shot.number else None
        following = plan.shots[shot.number + 1] if shot.number + 1 < len(plan.shots) else None
        leaves = following.joined_frames // 2 if following is not None and following.joined == "fade" else 0
        begin, end = shot.begins, shot.begins + shot.frames
        number += 1
        if shot.joined == "cut" or (before is None and shot.joined != "fade"):
            lines.append(event(number, _reel(shot), "C", 0, (0, shot.frames - leaves), (begin, end - leaves)))
        else:
            fades = shot.joined == "fade"
            inside = shot.joined_frames - (shot.joined_frames // 2 if fades and before is not None else 0)
            kind, length = ("D", inside) if fades else _kind(shot)
            reel, point = ("BL", 0) if fades or before is None else (_reel(before), before.frames)
            lines.append(event(number, reel, "C", 0, (point, point), (begin, begin)))
            lines.append(event(number, _reel(shot), kind, length, (0, shot.frames - leaves), (begin, end - leaves)))
            if not fades and before is not None:
                lines.append(f"* FROM CLIP NAME: {before.name}")
        lines.append(f"* {'TO' if shot.joined in ('dissolve', 'wipe', 'push') else 'FROM'} CLIP NAME: {shot.name}")
        if shot.joined == "push":
            lines.append("* EFFECT NAME: PUSH")
        if leaves:
            number += 1
            point = shot.frames - leaves
            lines.append(event(number, _reel(shot), "C", 0, (point, point), (end - leaves, end - leaves)))
            lines.append(event(number, "BL", "D", leaves, (0, leaves), (end - leaves, end)))
            lines.append(f"* FROM CLIP NAME: {shot.name}")
    return "\n".join(lines) + "\n"


def timecode(frame: int, rate: int) -> str:
    """HH:MM:SS:FF, `rate` frames counted to the second."""
    seconds, frames = divmod(frame, rate)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}:{frames:02d}"


def _kind(shot: PlannedShot) -> tuple[str, int]:
    return ("D" if shot.joined == "dissolve" else "W001"), shot.joined_frames


def _reel(shot: PlannedShot) -> str:
    return f"S{shot.number + 1:03d}"


def _plain(text: str) -> str:
    """One line of ASCII, which is all that the format has."""
    return " ".join("".join(letter if " " <= letter <= "~" else " " for letter in text).split()) or "FILM"


def subtitles(plan: FilmPlan) -> str:
    """SRT of what is said in the prompts' <dialogue> spans; "" where nothing is.

    Where in its shot a line is said, the list does not tell: the lines share the shot, each as its length in letters.
    """
    entries: list[str] = []
    for shot in plan.shots:
        lines = [" ".join(words.split()) for words in parse(shot.entry.prompt)[0].spans("dialogue")]
        lines = [line for line in lines if line]
        total = sum(len(line) for line in lines)
        at = Fraction(shot.begins)
        for line in lines:
            end = at + Fraction(shot.frames * len(line), total)
            span = f"{_clock(at / plan.fps)} --> {_clock(end / plan.fps)}"
            entries.append(f"{len(entries) + 1}\n{span}\n{line}\n")
            at = end
    return "\n".join(entries)


def _clock(seconds: Fraction) -> str:
    milliseconds = round(seconds * 1000)
    return (
        f"{milliseconds // 3_600_000:02d}:{milliseconds // 60_000 % 60:02d}:"
        f"{milliseconds // 1000 % 60:02d},{milliseconds % 1000:03d}"
    )


class ContactSheet:
    """Watches a film being written, and keeps a few small frames of each shot."""

    def __init__(self, plan: FilmPlan) -> None:
        self._plan = plan
        self._wanted: dict[int, int] = {}
        for shot in plan.shots:
            for frame in np.linspace(0, shot.frames - 1, min(COLUMNS, shot.frames)).round().astype(int).tolist():
                self._wanted[shot.begins + frame] = shot.number
        self._kept: dict[int, list[Image.Image]] = {shot.number: [] for shot in plan.shots}

    def frames(self, chunks: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        """The same chunks [f, H, W, 3]."""
        number = 0
        for chunk in chunks:
            for frame in chunk:
                if number in self._wanted:
                    picture = Image.fromarray(np.ascontiguousarray(frame))
                    picture.thumbnail((CELL, CELL))
                    self._kept[self._wanted[number]].append(picture)
                number += 1
            yield chunk

    def picture(self) -> Image.Image:
        """A row a shot: its frames, its name and times, how it begins, what it was asked for."""
        height = max((frame.height for frames in self._kept.values() for frame in frames), default=CELL) + 6
        height = max(height, 52)
        sheet = Image.new("RGB", (COLUMNS * (CELL + 2) + TEXT, len(self._plan.shots) * height), PAPER)
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=10)
        for shot in self._plan.shots:
            top = shot.number * height + 2
            for column, frame in enumerate(self._kept[shot.number]):
                sheet.paste(frame, (column * (CELL + 2), top))
            begin, end = (frame / self._plan.fps for frame in (shot.begins, shot.begins + shot.frames))
            prompt = shot.entry.prompt if shot.entry.prompt.isascii() else "(not in Latin letters)"
            said = [f"{shot.name}  {float(begin):.2f} to {float(end):.2f} s  {shot.entry.transition}"]
            for row, line in enumerate([*said, *textwrap.wrap(" ".join(prompt.split()), 64)[:3]]):
                pen.text((COLUMNS * (CELL + 2) + 6, top + 12 * row), line, fill=INK, font=font)
        return sheet
