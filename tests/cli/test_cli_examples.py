"""The examples in the commands' help run as they stand, in a folder that holds the files they name."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
import pytest
import typer.main
from PIL import Image, ImageDraw

from sky4.media import write_clip
from sky4.pipeline.model_folder import BUNDLED, ModelFolder
from sky4cli.examples import examples_of
from sky4cli.main import app, main

SIDE = 64  # the bundled model's own
COMMANDS = {name: examples_of(command.epilog) for name, command in typer.main.get_command(app).commands.items()}
MAKERS = sorted(
    name
    for name, command in typer.main.get_command(app).commands.items()
    if {"prompt", "steps", "out"} <= {option.name for option in command.params}
)


def circle(left: int, colour: str, ground: str = "navy") -> np.ndarray:
    picture = Image.new("RGB", (SIDE, SIDE), ground)
    ImageDraw.Draw(picture).ellipse((left, 20, left + 22, 42), fill=colour)
    return np.asarray(picture)


def clip(path: Path) -> None:
    """2 s with a beep, a circle moving right."""
    frames = np.stack([circle(index, "red") for index in range(33)])
    beep = 0.2 * np.sin(np.arange(round(33 / 16 * 44100)) / 20).astype(np.float32)
    write_clip(path, [frames], np.stack([beep, beep]), fps=Fraction(16), recipe={})


def picture(path: Path) -> None:
    Image.fromarray(circle(20, "yellow")).save(path)


def mask(path: Path) -> None:
    """White is edited: a box in the middle."""
    white = Image.new("L", (SIDE, SIDE), 0)
    ImageDraw.Draw(white).rectangle((16, 16, 47, 47), fill=255)
    white.save(path)


def jobs(path: Path) -> None:
    path.write_text('{"prompt": "a red circle moves right", "out": "red.mp4"}\n')


def inputs(path: Path) -> None:
    path.mkdir()
    picture(path / "circle.png")


def made(path: Path) -> None:
    """Half a second of the bundled model's own."""
    assert main(["generate", "--prompt", "a red circle", "--frames", "9", "--steps", "2", "-o", str(path)]) == 0


def shot_list(path: Path) -> None:
    path.write_text(
        "{steps: 2, shots: [{prompt: a red circle bounces, seconds: 0.5}, {prompt: a star, seconds: 0.5}]}\n", "utf-8"
    )


# What an example may name without having made it. A new name is entered here.
FILES: dict[str, Callable[[Path], None]] = {
    "clip.mp4": clip,
    "first.png": picture,
    "star.png": picture,
    "mask.png": mask,
    "jobs.jsonl": jobs,
    "inputs": inputs,
    "made.mp4": made,
    "shots.yaml": shot_list,
}


def test_every_command_that_makes_clips_has_two_examples() -> None:
    assert {name: len(COMMANDS[name]) for name in MAKERS} == dict.fromkeys(MAKERS, 2)
    assert {"generate", "edit"} <= set(MAKERS)


@pytest.mark.parametrize("name", MAKERS)
def test_the_help_shows_them_unbroken(name: str) -> None:
    command = typer.main.get_command(app).commands[name]
    shown = command.get_help(click.Context(command, terminal_width=60))
    for line in COMMANDS[name]:
        assert line in shown


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, lines in COMMANDS.items() if lines])
def test_they_run_as_they_stand(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "refine" and ModelFolder.read(BUNDLED).manifest.refiner is None:
        pytest.skip("the bundled model has no refiner yet")
    for line in COMMANDS[name]:
        words = shlex.split(line)
        assert words[:2] == ["sky4", name], line
        for file, make in FILES.items():
            if file in line and not Path(file).exists() and not _is_output(words, file):
                make(Path(file))
        before = set(tmp_path.iterdir())
        quicker = ["--steps", "2"] if name in (*MAKERS, "batch") else []  # the only thing that is changed
        assert main([*words[1:], *quicker]) == 0, f"{line}: {capsys.readouterr().err}"
        if name in MAKERS:
            made = set(tmp_path.iterdir()) - before
            assert made, line
            assert all(path.stat().st_size > 0 for path in made)


def _is_output(words: list[str], file: str) -> bool:
    return any(flag in ("-o", "--out") and value == file for flag, value in pairwise(words))
