"""From rows to jobs: one clip each, with its flags, its paths inside their root, and its own place to be written to."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from sky4.batch.gates import REFUSED
from sky4.batch.manifest import Misread, Place, Row, Value
from sky4.media import INSIDE, Provenance
from sky4.pipeline.engine import Engine
from sky4.pipeline.request import ClipRequest
from sky4.prompting.references import kind_of

OWN_FOLDER = ".locks"  # inside the folder of outputs
OWN_FOLDERS = (OWN_FOLDER, REFUSED)
LOG = "events.jsonl"
MOST_VARIATIONS = 10_000
TRUE, FALSE = ("true", "yes", "1", "on"), ("false", "no", "0", "off")


@dataclass(frozen=True)
class Option:
    """A flag of a command, as a row may name it. flag: "" for the file that stands without one.

    takes: a path (a named one: NAME=PATH, a name or not: [NAME=]PATH) is read relative to the manifest, a log is
    written relative to the outputs. values: how many one flag takes. off: the flag that says no to a switch, or "".
    """

    flag: str
    takes: Literal["text", "switch", "path", "named path", "path, a name or not", "log"] = "text"
    many: bool = False
    values: int = 1
    off: str = ""

    @property
    def names_a_file(self) -> bool:
        return self.takes not in ("text", "switch")

    @property
    def is_bare(self) -> bool:
        """Of a file: whether its path stands alone, without a name and "=" before it."""
        return self.takes in ("path", "log")


Command = Mapping[str, Option]  # by every name that the flag has


@dataclass(frozen=True)
class Layout:
    """Where a batch's paths lead. root: what rows' paths are relative to and stay inside of; out: of outputs."""

    root: Path
    out: Path
    allow_outside: bool = False

    def input(self, text: str) -> Path:
        """Misread for a path out of the root, be it by .., by its beginning or by a symbolic link."""
        path = self.root / text
        if not self.allow_outside and not any(_inside(path, place) for place in (self.root, self.out)):
            raise Misread(f"'{text}' leads out of '{self.root}'; move it inside, or add --allow-outside")
        return path

    def output(self, text: str) -> Path:
        """Misread for a path out of the folder of outputs."""
        path = self.out / text
        if not self.allow_outside and not _inside(path, self.out):
            raise Misread(f"the output '{text}' leads out of '{self.out}'; choose a name inside")
        if any(_inside(path, self.out / own) for own in OWN_FOLDERS) or real(path) == real(self.out):
            raise Misread(f"the output '{text}' is the batch's own; choose another name")
        return path

    def log(self, text: str) -> Path:
        """Misread as of `output`, and for what is no file."""
        if not is_log(text):
            raise Misread(f"'{text}' is no file; the events of a job go into one, such as {LOG}")
        return self.output(text)

    def name(self, out: Path) -> str:
        """What an output is called in the journal: its path inside the folder, so that the folder can be moved."""
        resolved, base = real(out), real(self.out)
        return (resolved.relative_to(base) if resolved.is_relative_to(base) else resolved).as_posix()


@dataclass(frozen=True)
class Job:
    """One clip to be made. name: of its output, and its own.

    argv: the command's flags with absolute paths, for all variations of the row; variation: which one this is.
    inputs: the files that the row names. after: the jobs whose outputs are among them.
    """

    name: str
    place: Place
    number: int
    command: str
    argv: tuple[str, ...]
    row_out: Path
    out: Path
    variation: int = 0
    inputs: tuple[Path, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ready:
    """A job whose flags have become a request of one variation. notes: worth saying of it. events: a file to add to."""

    request: ClipRequest
    engine: Engine
    enhancer: Path | None = None
    notes: tuple[str, ...] = ()
    provenance: Provenance = INSIDE
    events: str | None = None


Plan = Callable[[Job], Ready]  # RequestError for what cannot be made


def jobs_of(
    row: Row, commands: Mapping[str, Command], usual: str, template: Mapping[str, Value], layout: Layout
) -> list[Job]:
    """A row's jobs, one for each variation. template: values, with paths as they are, for what the row does not say.

    usual: the command of a row that names none. Misread for a row that is none.
    """
    values = dict(row.values)
    command = values.pop("command", usual)
    if not isinstance(command, str) or command not in commands:
        raise Misread(f"command '{command}' is unknown; use one of {', '.join(commands)}")
    options = commands[command]
    given: dict[Option, tuple[str, ...]] = {}
    for name, value in template.items():
        given[_option(name, options, command)] = _texts(name, _option(name, options, command), value, _as_it_is)
    said: dict[Option, str] = {}
    for name, value in values.items():
        option = _option(name, options, command)
        if option in said:
            raise Misread(f"'{said[option]}' and '{name}' are one flag; drop one")
        said[option] = name
        place = _as_it_is if name == "out" else layout.log if option.takes == "log" else layout.input
        given[option] = _texts(name, option, value, place)
    out_option, count_option = options["out"], options["variations"]
    given.setdefault(out_option, (f"{row.number:04d}{_usual_suffix(options, given)}",))
    row_out = layout.output(given.pop(out_option)[0])
    inputs = tuple(
        Path(text if option.takes == "path" else _split(text, option)[1])
        for option, texts in given.items()
        for text in texts
        if "path" in option.takes
    )
    count = _count(given.get(count_option, ("1",))[0])
    outs = [row_out]
    if count > 1:
        outs = [row_out.with_name(f"{row_out.stem}-{number}{row_out.suffix}") for number in range(1, count + 1)]
    argv = tuple(_argv(given))
    return [
        Job(layout.name(out), row.place, row.number, command, argv, row_out, out, index, inputs)
        for index, out in enumerate(outs)
    ]


def _option(name: str, options: Command, command: str) -> Option:
    if name not in options:
        near = get_close_matches(name, options, n=1)
        hint = f"do you mean '{near[0]}'?" if near else f"`sky4 {command} --help` lists them, without their dashes"
        raise Misread(f"'{name}' is no flag of {command} in a batch; {hint}")
    return options[name]


def _texts(name: str, option: Option, value: Value, place: Callable[[str], str | Path]) -> tuple[str, ...]:
    """What is given to a flag; of a switch ("on",) or ("off",)."""
    if option.takes == "switch":
        word = str(value).strip().lower()
        if word not in TRUE + FALSE:
            raise Misread(f"'{name}' is a switch; give it true or false")
        return ("on",) if word in TRUE else ("off",)
    if isinstance(value, bool):
        raise Misread(f"'{name}' wants a value, not {str(value).lower()}")
    texts = value if isinstance(value, tuple) else (value,)
    if len(texts) != option.values and not option.many:
        wanted = "one value" if option.values == 1 else f"a list of {option.values}"
        raise Misread(f"'{name}' takes {wanted}, got {len(texts)}")
    if not option.names_a_file:
        return texts
    placed = []
    for text in texts:
        prefix, path = _split(text, option)
        placed.append(f"{prefix}{place(path)}")
    return tuple(placed)


def _split(text: str, option: Option) -> tuple[str, str]:
    """('image_1=', 'a.png') of a named path."""
    if option.is_bare:
        return "", text
    name, equals, path = text.partition("=")
    if not equals or (option.takes == "path, a name or not" and "/" in name):
        return "", text
    return name + equals, path


def is_log(text: str) -> bool:
    """Whether events may be told there: stdout and descriptors are not a job's to use."""
    return text != "-" and not text.startswith("fd:")


def _as_it_is(text: str) -> str:
    return text


def _argv(given: Mapping[Option, tuple[str, ...]]) -> list[str]:
    argv: list[str] = []
    files: list[str] = []
    for option, texts in given.items():
        if option.takes == "switch":
            argv += [option.flag] if texts == ("on",) else [option.off] if option.off else []
        elif option.values > 1:
            argv += [option.flag, *texts]
        elif option.flag:
            argv += [f"{option.flag}={text}" for text in texts]  # with =, a value may begin with dashes
        else:
            files += texts
    return [*argv, "--", *files] if files else argv


def _usual_suffix(options: Command, given: Mapping[Option, tuple[str, ...]]) -> str:
    only = given.get(options.get("only", Option("")), ("",))[0]
    file = next((texts[0] for option, texts in given.items() if not option.flag), "")
    if only == "audio":
        return ".wav"
    return ".png" if only == "still" or kind_of(Path(file)) == "image" else ".mp4"


def _count(text: str) -> int:
    """How many clips a row makes; what is no such number is refused by the command itself."""
    return int(text) if text.isdecimal() and 1 <= int(text[:6]) <= MOST_VARIATIONS and len(text) < 6 else 1


def real(path: Path) -> Path:
    """Where a path leads in the end. A circle of links is left as it is: nothing can be opened by it."""
    return Path(os.path.realpath(path))


def _inside(path: Path, folder: Path) -> bool:
    return real(path).is_relative_to(real(folder))


def shard(jobs: Sequence[Job], index: int, count: int) -> list[Job]:
    """Part `index` (from 1) of `count`: whole groups of jobs that need one another, dealt out in turns."""
    group: dict[str, str] = {}

    def first(name: str) -> str:
        while group[name] != name:
            group[name] = name = group[group[name]]
        return name

    for job in jobs:
        group[job.name] = job.name
    for job in jobs:
        for other in job.after:
            group[first(job.name)] = first(other)
    turns: dict[str, int] = {}
    return [job for job in jobs if turns.setdefault(first(job.name), len(turns)) % count == index - 1]
