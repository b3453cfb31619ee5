"""The commands that make clips, as a batch sees them: their flags by name, and their own way to a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import typer
import typer.main

from sky4.batch.jobs import LOG, Command, Job, Option, Ready, is_log
from sky4.batch.manifest import Value, tidy_name
from sky4.errors import RequestError
from sky4.prompting.references import Kind
from sky4cli.edit import edit
from sky4cli.extend import extend
from sky4cli.generate import generate
from sky4cli.inpaint import inpaint
from sky4cli.planned import Planned
from sky4cli.refine import refine

# A command that makes clips is entered here.
MAKERS: dict[str, Callable[..., Planned | None]] = {
    "generate": generate,
    "inpaint": inpaint,
    "edit": edit,
    "extend": extend,
    "refine": refine,
}
# What a folder's files are given to: the flag, and switches that go with it.
FOLDER_INPUTS: dict[str, dict[Kind, tuple[str, ...]]] = {
    "generate": {"image": ("image",), "video": ("video",), "audio": ("audio", "drive")},
    "inpaint": {"image": ("video",), "video": ("video",)},
    "edit": {"image": ("video",), "video": ("video",)},
    "extend": {"video": ("video",)},
    "refine": {"image": ("video",), "video": ("video",)},
}
# Of the batch as a whole, or no clip.
NOT_OF_A_JOB = (
    *("--force", "--json", "--quiet", "--mask-preview"),
    *("--resume-dir", "--resume", "--preview-every"),
    *("--dry-run", "--preset", "--format"),
)
# What a flag's placeholder says of its value.
TAKES = {"NAME=PATH": "named path", "[NAME=]PATH": "path, a name or not", "FILE|-|fd:N": "log"}


@lru_cache
def _parser() -> Any:
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    for name, plan in MAKERS.items():
        app.command(name)(plan)
    return typer.main.get_command(app)


@lru_cache
def commands() -> dict[str, Command]:
    """Each command's flags, by all their names."""
    found: dict[str, Command] = {}
    for name, command in _parser().commands.items():
        options: dict[str, Option] = {}
        for parameter in command.params:
            if not set(parameter.opts) & set(NOT_OF_A_JOB):
                option = _option(parameter)
                options |= {tidy_name(word): option for word in parameter.opts}
        found[name] = options
    return found


def _option(parameter: Any) -> Option:
    flag = max(parameter.opts, key=len)
    if not flag.startswith("-"):
        return Option("", "path")
    if getattr(parameter, "is_flag", False):
        return Option(flag, "switch", off=next(iter(parameter.secondary_opts), ""))
    descriptor = parameter.type_descriptor
    is_path = descriptor.is_path or Path in get_args(descriptor.annotation)
    takes: Any = TAKES.get(parameter.metavar or "", "path" if is_path else "text")
    return Option(flag, takes, bool(getattr(parameter, "multiple", False)), parameter.nargs)


def read_template(words: Sequence[str]) -> dict[str, Value]:
    """Flags behind the batch's own, for every job that does not say otherwise; paths relative to where one is.

    RequestError for what is no flag of any command.
    """
    known: dict[str, Option] = {}
    for options in commands().values():
        known |= {name: option for name, option in options.items() if option.flag}
    offs = {option.off: name for name, option in known.items() if option.off}
    given: dict[str, Value] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        flag, equals, value = word.partition("=")
        name = offs.get(flag, tidy_name(flag))
        option = known.get(name)
        if option is None or not word.startswith("-") or len(flag) < 2:
            raise RequestError(
                f"{word} is neither an option of sky4 batch nor of a command that makes clips; "
                "the jobs come first: sky4 batch JOBS -o OUT [options]"
            )
        if option.takes == "switch":
            given[name] = flag not in offs
            continue
        values = [value] if equals else []
        wanted = option.values - len(values)
        if len(left) < wanted:
            raise RequestError(f"{flag} wants {'a value' if option.values == 1 else f'{option.values} values'}")
        placed = tuple(_here(text, option) for text in (*values, *left[:wanted]))
        del left[:wanted]
        before = given.get(name, ())
        if option.many and isinstance(before, tuple):
            placed = (*before, *placed)
        given[name] = placed if option.many or option.values > 1 else placed[0]
    return given


def _here(value: str, option: Option) -> str:
    """A path typed in a shell is relative to where one is, not to the manifest."""
    if option.takes == "log" and not is_log(value):
        raise RequestError(f"{option.flag} {value}: many jobs tell their events here; name a file, such as {LOG}")
    if not option.names_a_file:
        return value
    name, equals, path = value.partition("=")
    if option.is_bare or not equals:
        return str(Path(value).absolute())
    return f"{name}={Path(path).absolute()}"


@lru_cache(maxsize=1024)  # the variations of a row, and a second look at it, are one plan
def _planned(command: str, argv: tuple[str, ...], out: Path) -> Planned:
    try:
        planned = _parser().main([command, f"--out={out}", *argv], prog_name="sky4", standalone_mode=False)
    except typer.TyperException as error:
        raise RequestError(" ".join(error.format_message().split())) from error
    assert isinstance(planned, Planned)
    return planned


def plan(job: Job) -> Ready:
    """The job's request, as its command makes it of the same flags. RequestError for whatever can be said before
    weights are loaded.
    """
    from sky4.media import INSIDE, output_format
    from sky4.pipeline.model_folder import ModelFolder
    from sky4cli.make import check_before

    output_format(job.out)
    planned = _planned(job.command, job.argv, job.row_out)
    request = planned.request.variation(job.variation)
    # whether a recipe beside the output may be replaced, the batch sees when it looks at what lies there
    provenance = planned.provenance or INSIDE
    said = check_before(request, ModelFolder.read(planned.engine.model), [job.out], provenance, force=True)
    notes = (*planned.notes, *said)
    return Ready(request, planned.engine, planned.enhancer, notes, provenance, planned.following.events)


def folder_inputs(command: str, values: Mapping[str, Value]) -> tuple[dict[Kind, tuple[str, ...]], bool]:
    """(what a folder's files are given to, whether a picture becomes a picture)."""
    return FOLDER_INPUTS[command], command in ("inpaint", "edit", "refine") or values.get("only") == "still"
