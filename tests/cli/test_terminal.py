"""Pictures in terminals: only where it is certain, in bytes that the protocols' own rules read back."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from sky4cli.terminal import PIECE, WIDTH, picture, protocol_of

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm2"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "vscode"}, None),
        ({"TERM": "dumb"}, None),
        ({}, None),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app", "TMUX": "/tmp/tmux"}, None),
        ({"TERM": "screen", "STY": "1", "LC_TERMINAL": "iTerm2"}, None),
    ],
)
def test_a_terminal_shows_pictures_only_where_it_is_certain(environ: dict[str, str], found: str | None) -> None:
    assert protocol_of(environ) == found


def test_kitty_gets_a_png_in_pieces() -> None:
    pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", picture(NOISE, "kitty"))
    assert len(pieces) > 1
    assert all(len(text) <= PIECE for _, text in pieces)
    assert pieces[0][0].startswith("a=T,f=100,")
    assert [keys[-3:] for keys, _ in pieces] == ["m=1"] * (len(pieces) - 1) + ["m=0"]
    shown = Image.open(io.BytesIO(base64.b64decode("".join(text for _, text in pieces))))
    assert np.array_equal(np.asarray(shown), np.asarray(NOISE))


def test_iterm2_gets_a_png_and_its_size() -> None:
    size, text = re.fullmatch(
        r"\x1b\]1337;File=inline=1;size=(\d+):([^\x07]*)\x07\n", picture(NOISE, "iterm2")
    ).groups()
    file = base64.b64decode(text)
    assert len(file) == int(size)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(file))), np.asarray(NOISE))


def test_sixels_draw_every_pixel_in_about_its_colour() -> None:
    ramp = np.stack(np.meshgrid(np.arange(60) * 4, np.arange(40) * 6), -1)
    image = Image.fromarray(np.concatenate([ramp, np.zeros((40, 60, 1))], -1).astype(np.uint8))
    drawn = sixels(picture(image, "sixel"))
    assert drawn.shape == (40, 60, 3)
    assert np.abs(drawn - np.asarray(image)).mean() < 12


def sixels(text: str) -> np.ndarray:
    """A reader of DEC's rules, as far as they are used here."""
    body = re.fullmatch(r"\x1bPq(.*)\x1b\\\n", text, re.DOTALL).group(1)
    _, _, width, height = map(int, re.match(r'"(\d+);(\d+);(\d+);(\d+)', body).groups())
    canvas = np.full((height + 6, width, 3), -1.0)
    palette: dict[int, np.ndarray] = {}
    row = column = colour = 0
    for token in re.findall(r"#\d+(?:;\d+){0,4}|!\d+[?-~]|[?-~]|\$|-", body.partition("#")[1] + body.partition("#")[2]):
        if token[0] == "#":
            colour, *rest = map(int, token[1:].split(";"))
            if rest:
                palette[colour] = np.array(rest[1:]) * 2.55
        elif token == "$":
            column = 0
        elif token == "-":
            row, column = row + 6, 0
        else:
            count = int(token[1:-1]) if token[0] == "!" else 1
            for bit in range(6):
                if ord(token[-1]) - 63 >> bit & 1:
                    canvas[row + bit, column : column + count] = palette[colour]
            column += count
    assert (canvas[:height] >= 0).all()
    return canvas[:height]


def test_wide_sheets_are_made_to_fit() -> None:
    shown = re.search(r":(.*)\x07", picture(NOISE.resize((2000, 100)), "iterm2")).group(1)
    assert Image.open(io.BytesIO(base64.b64decode(shown))).size == (WIDTH, 32)
