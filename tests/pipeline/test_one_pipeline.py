"""Every command that makes clips goes through one function, and that function does not ask which command it serves."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import typer.main
from PIL import Image

from sky4.media import write_clip
from sky4.pipeline import generate
from sky4.pipeline.request import ClipRequest
from sky4.train.tasks import KINDS
from sky4cli.main import app, main

LIBRARY = Path(generate.__file__).resolve().parent.parent
ROOMS = ("pipeline", "conditioning", "diffusion", "model")

# A command that makes clips is entered here.
ARGV = {
    "generate": ["generate", "--prompt", "a circle", "-o", "out.mp4"],
    "edit": ["edit", "film.mp4", "--prompt", "in rain", "-o", "out.mp4"],
    "inpaint": ["inpaint", "film.mp4", "--mask", "mask.png", "--prompt", "in rain", "-o", "out.mp4"],
    "extend": ["extend", "film.mp4", "--seconds", "1", "--prompt", "in rain", "-o", "out.mp4"],
    "refine": ["refine", "film.mp4", "-o", "out.mp4"],
}
MAKERS = sorted(
    name
    for name, command in typer.main.get_command(app).commands.items()
    if {"prompt", "steps", "out"} <= {option.name for option in command.params}
)

NAMES = {*ARGV, *KINDS, "rerun", "eval", "bench"}
ASKING = re.compile(rf"(is_|for_)?(task|tasks|command|{'|'.join(ARGV)})", re.IGNORECASE)


class Reached(Exception):
    """The one function was called; what it would do is tested elsewhere."""


@pytest.mark.parametrize("command", MAKERS)
def test_every_command_asks_the_same_function(
    command: str, refining_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(Path("film.mp4"), [np.full((17, 32, 32, 3), 90, np.uint8)], None, fps=Fraction(16), recipe={})
    white = np.zeros((32, 32), np.uint8)
    white[8:24, 8:24] = 255
    Image.fromarray(white).save("mask.png")
    asked: list[ClipRequest] = []

    def spy(request: ClipRequest, *_: object) -> None:
        asked.append(request)
        raise Reached

    monkeypatch.setattr(generate, "generate_clips", spy)
    with pytest.raises(Reached):
        main([*ARGV[command], "--model", str(refining_model), "--quiet"])
    assert [type(request) for request in asked] == [ClipRequest]
    recipe = json.loads(json.dumps(asked[0].to_dict()))
    assert ClipRequest.from_dict(recipe).to_dict() == recipe


def conditions_on_tasks(source: str) -> Iterator[int]:
    """Lines of the conditions that ask for a task or a command, by a name or by an attribute that holds one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert):
            conditions: list[ast.AST] = [node.test]
        elif isinstance(node, ast.comprehension):
            conditions = [*node.ifs]
        elif isinstance(node, ast.Match):
            conditions = [node.subject, *(case.pattern for case in node.cases)]
        else:
            continue
        parts = [part for condition in conditions for part in ast.walk(condition)]
        if any(_asks(part) for part in parts):
            yield conditions[0].lineno  # type: ignore[attr-defined]


def _asks(part: ast.AST) -> bool:
    if isinstance(part, ast.Constant):
        return isinstance(part.value, str) and part.value in NAMES
    name = part.id if isinstance(part, ast.Name) else part.attr if isinstance(part, ast.Attribute) else ""
    return ASKING.fullmatch(name) is not None


def test_no_condition_of_the_pipeline_asks_for_a_task() -> None:
    files = [path for room in ROOMS for path in sorted((LIBRARY / room).rglob("*.py"))]
    assert len(files) > 20
    found = {
        f"{path.relative_to(LIBRARY)}:{line}" for path in files for line in conditions_on_tasks(path.read_text("utf-8"))
    }
    assert found == set()


@pytest.mark.parametrize(
    "source",
    [
        "if request.task == other: pass",
        "x = 1 if mode == 'inpaint' else 2",
        "if is_edit: pass",
        "y = [i for i in things if i in ('i2v', 't2v')]",
        "match request.kind:\n    case 'extend': pass",
        "while command: pass",
    ],
)
def test_such_a_condition_would_be_found(source: str) -> None:
    assert len(list(conditions_on_tasks(source))) == 1


def test_conditions_on_what_is_given_are_none() -> None:
    assert not list(conditions_on_tasks("if request.sources or file.kind == 'audio': pass"))
