"""Pictures in a terminal that can show them: kitty's protocol, iTerm2's, or sixels. Where in doubt, none."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL import Image

Protocol = Literal["kitty", "iterm2", "sixel"]

WIDTH = 640  # pixels: what fits beside the rest in a window of usual size
PIECE = 4096  # bytes of a piece of kitty's protocol
SIXEL_TERMINALS = ("foot", "foot-extra", "mlterm", "contour", "yaft-256color")
COLOURS = 64  # of a picture in sixels: one pass over it for each


def protocol_of(environ: Mapping[str, str] = os.environ) -> Protocol | None:
    """How the terminal that is told of in the environment shows pictures; None where that is not certain.

    Nothing is asked of the terminal itself: one that does not answer, or answers late, would spoil the line.
    """
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if environ.get("TMUX") or environ.get("STY") or term.startswith(("screen", "tmux")):
        return None  # they swallow what they do not know
    if term == "xterm-kitty" or environ.get("KITTY_WINDOW_ID") or term == "xterm-ghostty" or program == "ghostty":
        return "kitty"
    if program in ("iTerm.app", "WezTerm") or environ.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    return "sixel" if term in SIXEL_TERMINALS else None


def picture(image: Image.Image, protocol: Protocol) -> str:
    """What to write so that the terminal shows the picture; ends with a new line."""
    if image.width > WIDTH:
        image = image.resize((WIDTH, max(1, round(image.height * WIDTH / image.width))))
    if protocol == "sixel":
        return _sixels(image)
    file = io.BytesIO()
    image.save(file, format="PNG")
    text = base64.b64encode(file.getvalue()).decode()
    if protocol == "iterm2":
        return f"\x1b]1337;File=inline=1;size={len(file.getvalue())}:{text}\x07\n"
    pieces = [text[at : at + PIECE] for at in range(0, len(text), PIECE)]
    told = ("a=T,f=100,q=2,", *[""] * (len(pieces) - 1))  # q=2: the terminal says nothing back
    lines = [
        f"\x1b_G{keys}m={int(number + 1 < len(pieces))};{piece}\x1b\\"
        for number, (keys, piece) in enumerate(zip(told, pieces, strict=True))
    ]
    return "".join(lines) + "\n"


def _sixels(image: Image.Image) -> str:
    """Bands of six rows, in each band one line per colour."""
    import numpy as np

    reduced = image.convert("RGB").quantize(COLOURS)
    palette = (reduced.getpalette() or [])[: 3 * COLOURS]
    indices = np.asarray(reduced)
    out = [f'\x1bPq"1;1;{image.width};{image.height}']
    for colour in range(len(palette) // 3):
        red, green, blue = (round(value / 255 * 100) for value in palette[3 * colour : 3 * colour + 3])
        out.append(f"#{colour};2;{red};{green};{blue}")
    for top in range(0, image.height, 6):
        band = indices[top : top + 6]
        for colour in np.unique(band):
            bits = ((band == colour) << np.arange(len(band))[:, None]).sum(axis=0)
            out.append(f"#{colour}{_run_lengths(bits.tolist())}$")
        out.append("-")
    return "".join(out) + "\x1b\\\n"


def _run_lengths(bits: list[int]) -> str:
    out, at = [], 0
    while at < len(bits):
        end = at
        while end < len(bits) and bits[end] == bits[at]:
            end += 1
        letter = chr(63 + bits[at])
        out.append(f"!{end - at}{letter}" if end - at > 3 else letter * (end - at))
        at = end
    return "".join(out)
