"""The roofline: flop per second over flop per byte of each row, under the matrix product and the copy of the same run.

Drawn once as lines, dots and words, and put into SVG or, by Pillow, into PNG.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sky4.bench.record import Document, Row
from sky4.errors import RequestError

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 1020, 640, 110, 50, 330, 70
FONT = 13
OURS, THEIRS, INK, GRID = "#c8402f", "#5a7fb0", "#222222", "#dddddd"
SUFFIXES = (".png", ".svg")


@dataclass(frozen=True)
class Line:
    x0: float
    y0: float
    x1: float
    y1: float
    colour: str
    width: int = 1


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    colour: str


@dataclass(frozen=True)
class Words:
    x: float
    y: float
    text: str
    colour: str = INK


Mark = Line | Dot | Words


def check_plot(path: Path) -> None:
    """RequestError for a suffix that cannot be drawn."""
    if path.suffix.lower() not in SUFFIXES:
        raise RequestError(f"--plot {path}: the suffix must be {' or '.join(SUFFIXES)}")


def write_plot(document: Document, path: Path) -> None:
    """RequestError where no row has both flop and bytes."""
    check_plot(path)
    rows = [row for row in document.rows if row.flop and row.bytes and row.flop_per_second]
    if not rows:
        raise RequestError(f"--plot {path}: no row of this run has both flop and bytes; measure an attention kernel")
    marks = list(_marks(document, rows))
    if path.suffix.lower() == ".svg":
        path.write_text(_svg(marks), "utf-8")
    else:
        _png(marks).save(path)


def _marks(document: Document, rows: list[Row]) -> Iterator[Mark]:
    intensities = [row.flop / row.bytes for row in rows if row.flop and row.bytes]
    rates = [row.flop_per_second for row in rows if row.flop_per_second]
    peak = max(roof["flop_per_second"] for roof in document.roofs if roof["name"] == "matmul")
    copy = next(roof["bytes_per_second"] for roof in document.roofs if roof["name"] == "copy")
    across = _decades([*intensities, peak / copy])
    up = _decades([*rates, peak])

    def x(value: float) -> float:
        return LEFT + (math.log10(value) - across[0]) / (across[1] - across[0]) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (math.log10(value) - up[0]) / (up[1] - up[0]) * (HEIGHT - TOP - BOTTOM)

    for power in range(across[0], across[1] + 1):
        yield Line(x(10**power), y(10 ** up[0]), x(10**power), y(10 ** up[1]), GRID)
        yield Words(x(10**power) - 8, HEIGHT - BOTTOM + 8, f"{10.0**power:g}")
    for power in range(up[0], up[1] + 1):
        yield Line(x(10 ** across[0]), y(10**power), x(10 ** across[1]), y(10**power), GRID)
        yield Words(10, y(10**power) - 8, flop_rate(10**power))
    yield Words((WIDTH - RIGHT) / 2 - 20, HEIGHT - 30, "flop per byte")
    environment = document.environment
    yield Words(LEFT, 14, f"sky4 bench {document.command} on {environment['device']}, {environment['dtype']}")
    start = max(10 ** across[0], 10 ** up[0] / copy)
    yield Line(x(start), y(start * copy), x(peak / copy), y(peak), INK, 2)
    yield Line(x(peak / copy), y(peak), x(10 ** across[1]), y(peak), INK, 2)
    yield Words(x(10 ** across[1]) - 190, y(peak) - 20, f"matrix product {flop_rate(peak)}")
    yield Words(x(peak / copy) - 150, y(peak) + 14, f"copy {copy / 1e9:.1f} GB/s")
    for number, row in enumerate(sorted(rows, key=lambda row: -(row.flop_per_second or 0))):
        assert row.flop and row.bytes and row.flop_per_second
        colour = OURS if row.ours else THEIRS
        at = x(row.flop / row.bytes), y(row.flop_per_second)
        yield Dot(*at, colour)
        if row.ours:
            yield Words(at[0] + 7, at[1] - 7, str(number + 1), colour)
        line = TOP + number * (FONT + 3)
        if line < HEIGHT - FONT:
            label = f"{number + 1} {row.subject}: {row.case}"
            yield Words(WIDTH - RIGHT + 16, line, label if len(label) <= 46 else f"{label[:44]}..", colour)


def _decades(values: list[float]) -> tuple[int, int]:
    """Powers of ten below and above all values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return (low, high) if high > low else (low, low + 1)


def flop_rate(rate: float) -> str:
    """1.5e12 as '1.5 TFLOP/s'."""
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if rate >= size:
            return f"{rate / size:.3g} {unit}FLOP/s"
    return f"{rate:.3g} FLOP/s"


def _svg(marks: list[Mark]) -> str:
    parts = []
    for mark in marks:
        if isinstance(mark, Line):
            ends = f'x1="{mark.x0:.1f}" y1="{mark.y0:.1f}" x2="{mark.x1:.1f}" y2="{mark.y1:.1f}"'
            parts.append(f'<line {ends} stroke="{mark.colour}" stroke-width="{mark.width}"/>')
        elif isinstance(mark, Dot):
            parts.append(f'<circle cx="{mark.x:.1f}" cy="{mark.y:.1f}" r="4" fill="{mark.colour}"/>')
        else:
            where = f'x="{mark.x:.1f}" y="{mark.y + FONT:.1f}" fill="{mark.colour}"'
            parts.append(f"<text {where}>{escape(mark.text)}</text>")
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
    body = "\n".join(parts)
    return f'{head} font-size="{FONT}">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'


def _png(marks: list[Mark]) -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(FONT)
    for mark in marks:
        if isinstance(mark, Line):
            draw.line((mark.x0, mark.y0, mark.x1, mark.y1), fill=mark.colour, width=mark.width)
        elif isinstance(mark, Dot):
            draw.circle((mark.x, mark.y), 4, fill=mark.colour)
        else:
            draw.text((mark.x, mark.y), mark.text, fill=mark.colour, font=font)
    return image
