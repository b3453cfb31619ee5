"""What the documents tell people to type is there: the command line itself reads it, and nothing is run.

Torch is not loaded.
"""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import pytest
import typer.main

from sky4.prompting import check_prompt
from sky4.train.settings import read_mapping
from sky4.world.lexicon import phrase_table
from sky4cli.main import app
from sky4cli.train import pairs

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "python_model" / "sky4" / "train" / "configs"
DOCUMENTS = ("README.md", "MODEL_CARD.md")

BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
ASSIGNMENT = re.compile(r"(\w+)=(\S+)")

# What captions are written with beside the words of the lexicon (world/captions.py).
LITTLE = (
    *("a", "an", "at each", "with each", "on the", "on a", "against a", "background", "ground", "spot", "in place"),
    *("replace", "with", "the", "put", "in place of the subject of"),  # of instructions (world/instructions.py)
    *("moves", "glides", "travels", "moving", "drifting", "pulsing", "swelling", "while", "pulse", "beat", "repeating"),
)


@dataclass(frozen=True)
class Typed:
    """One `sky4 ...` line: the command's name and what it was given, as the command line reads it."""

    line: str
    name: str
    values: dict[str, Any]


def shell_lines(text: str) -> Iterator[str]:
    """The commands of the shell blocks, with the blocks' own variables filled in."""
    for block in BLOCK.findall(text):
        variables: dict[str, str] = {}
        for line in block.replace("\\\n", " ").splitlines():
            if assigned := ASSIGNMENT.fullmatch(line):
                variables[assigned[1]] = assigned[2]
            else:
                yield Template(line).safe_substitute(variables)


def read_line(line: str) -> Typed | None:
    """None for a line that is no sky4 command. Raises what the command line says to a line that it cannot read."""
    words = shlex.split(line, comments=True)
    if not words or words[0] not in ("sky4", "scripts/sky4"):
        return None
    command = root()
    name, rest = "", words[1:]
    while hasattr(command, "commands"):
        assert rest and rest[0] in command.commands, f"{line}: sky4 {name} has no command {rest[:1]}"
        name, command, rest = f"{name} {rest[0]}".strip(), command.commands[rest[0]], rest[1:]
    return Typed(line, name, command.make_context(name, rest).params)


@functools.cache
def root() -> Any:
    return typer.main.get_command(app)


@functools.cache
def typed(document: str) -> list[Typed]:
    text = (ROOT / document).read_text("utf-8")
    return [command for line in shell_lines(text) if (command := read_line(line))]


def options(command: Any) -> Iterator[str]:
    yield "--help"
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    for child in getattr(command, "commands", {}).values():
        yield from options(child)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_command_line_reads_every_command(document: str) -> None:
    assert typed(document)


@pytest.mark.parametrize("line", ["sky4 paint", "sky4 show clip.mp4 --colour", "sky4 train joint", "sky4 eval"])
def test_a_command_or_option_that_is_not_there_is_found_out(line: str) -> None:
    with pytest.raises((AssertionError, typer.TyperException)):
        read_line(line)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_options_that_the_text_speaks_of_exist(document: str) -> None:
    prose = BLOCK.sub("", (ROOT / document).read_text("utf-8"))
    ours = re.sub(r"`pip install[^`]*`", "", prose)
    spoken = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", ours))
    assert spoken <= set(options(root()))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_config_that_is_named_exists(document: str) -> None:
    given = [command.values["config"] for command in typed(document) if "config" in command.values]
    assert not [path for path in given if not (ROOT / path).is_file()]
    named = re.findall(r"[\w./-]+\.yaml", BLOCK.sub("", (ROOT / document).read_text("utf-8")))
    assert not [name for name in named if not ((ROOT / name).is_file() or (CONFIGS / name).is_file())]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_to_a_file_or_a_heading(document: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / document).read_text("utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        assert (ROOT / (path or document)).is_file(), target
        headings = re.findall(r"^#+ (.+)$", (ROOT / (path or document)).read_text("utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, target


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_commands_follow_from_one_another(document: str) -> None:
    """From top to bottom: what a command reads was written before, or comes with sky4; nothing is written twice."""
    written: set[Path] = set()
    ours = Path("python_model/sky4/assets")

    def there(path: Path) -> bool:
        if path.is_relative_to(ours):
            return (ROOT / path).is_dir()
        return path in written or any(folder in written for folder in path.parents)

    for command in typed(document):
        for path in reads(command):
            assert there(path), f"{command.line}: nothing has made {path}"
        for path in writes(command):
            assert path not in written, f"{command.line}: {path} is there already"
            written.add(path)


def reads(command: Typed) -> Iterator[Path]:
    values = command.values
    for name in ("image", "last_image", "video", "audio", "file", "model", "baseline"):
        if values.get(name) is not None:
            yield values[name]
    yield from (Path(reference.partition("=")[2]) for reference in values.get("ref") or ())
    yield from (Path(mask.rpartition("=")[2]) for mask in values.get("mask") or ())
    if command.name.startswith("train"):
        settings = config(command)
        yield from (Path(path) for path in (settings.get("codecs") or {}).values() if isinstance(path, str))
        if command.name == "train export":
            yield Path(settings["run"]["folder"])
        elif settings.get("init") and command.name != "train cache":
            yield Path(settings["init"])
        if command.name == "train joint":
            yield Path(settings["data"]["cache"])


def writes(command: Typed) -> Iterator[Path]:
    if command.values.get("dry_run"):
        return
    out, variations = command.values.get("out"), command.values.get("variations", 1)
    if command.values.get("mask_preview") is not None:
        yield command.values["mask_preview"]
    if out is not None and command.name != "batch":  # a batch goes on in its folder
        numbered = [out.with_name(f"{out.stem}-{number}{out.suffix}") for number in range(1, variations + 1)]
        yield from numbered if variations > 1 else [out]
    if command.name == "train export":
        yield command.values["target"]
    elif command.name == "train cache":
        yield Path(config(command)["data"]["cache"])
    elif command.name == "train joint":
        yield Path(config(command)["run"]["folder"])
    elif command.name.startswith("train"):
        yield Path(config(command)["folder"])


def config(command: Typed) -> dict[str, Any]:
    return read_mapping(ROOT / command.values["config"], pairs(command.values["settings"], "--set"))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_prompts_are_clean_and_in_the_words_of_the_world(document: str) -> None:
    known = sorted({*phrase_table(), *LITTLE}, key=len, reverse=True)
    phrase = re.compile("|".join(rf"(?<![a-z]){re.escape(p)}(?![a-z])" if p.isascii() else p for p in known))
    for command in typed(document):
        prompt = command.values.get("prompt")
        if prompt is None:
            continue
        named = [*(command.values.get("ref") or ()), *(command.values.get("mask") or ())]
        names = [value.partition("=")[0] for value in named if "=" in value]
        implied = ["video_1"] if command.name == "edit" else []  # the clip being edited
        assert not check_prompt(prompt, [*implied, *names], implied), prompt
        words = re.sub(r"</?sfx>|@\w+", " ", prompt)
        assert not (left := re.findall(r"\w+", phrase.sub(" ", words))), f"{prompt!r}: not of the world: {left}"
