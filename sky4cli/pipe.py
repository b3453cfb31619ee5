"""`-o -`: the made file goes to stdout, for the next program; what is told goes to stderr then.

Containers are written with seeking, so the file is made in a temporary folder and handed on when it is whole.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from sky4.errors import RequestError, Sky4Failure

STDOUT = Path("-")

Container = Annotated[
    Literal["mp4", "mov", "mkv", "webm", "wav", "png"] | None,
    typer.Option("--format", help="Of the bytes on stdout, with -o -. Default: mkv, which programs read from a pipe."),
]

_opened: list[_Pipe] = []


class _Pipe:
    def __init__(self, suffix: str) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="sky4-")
        self.path = Path(self.folder.name) / f"stdout.{suffix}"
        self.stdout = sys.stdout
        sys.stdout = sys.stderr  # results and JSON: no byte of theirs may come between


def opened(out: Path | None, container: str | None, variations: int = 1) -> Path | None:
    """Where the command shall write: for `-` a temporary file, whose bytes `deliver` hands on. RequestError for a
    terminal at the other end, for several clips, and for --format without -o -."""
    if out != STDOUT:
        if container is not None:
            raise RequestError(f"--format {container} goes with -o -; of a file, the suffix says it")
        return out
    if variations > 1:
        raise RequestError(f"-o - takes one clip and --variations {variations} makes several; name a file with -o")
    if sys.stdout.isatty():
        raise RequestError("-o - would write a film to the terminal; pipe it into a program or a file, or name one")
    _opened.append(_Pipe(container or "mkv"))
    return _opened[-1].path


def deliver(path: Path) -> None:
    """Hand a finished file on, if it is the one that stdout waits for. Sky4Failure where nobody reads it."""
    for pipe in _opened:
        if pipe.path == path:
            try:
                with path.open("rb") as file:
                    shutil.copyfileobj(file, pipe.stdout.buffer, 2**20)
                pipe.stdout.flush()
            except BrokenPipeError as error:
                with contextlib.suppress(OSError, ValueError):  # or Python's own last flush would fail once more
                    os.dup2(os.open(os.devnull, os.O_WRONLY), pipe.stdout.fileno())
                raise Sky4Failure("the program that reads -o - has ended; the rest was thrown away") from error


def close() -> None:
    """Take the temporary files away and give stdout back, at a command's end."""
    while _opened:
        pipe = _opened.pop()
        sys.stdout = pipe.stdout
        pipe.folder.cleanup()
