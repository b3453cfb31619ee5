"""JOBS, from a file to rows: JSON Lines, CSV or YAML. A broken line is a fault with its place; the others go on.

Values stay the text that was typed, as flags on a command line would: 007 and 30000/1001 lose nothing.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sky4.errors import RequestError

Value = str | bool | tuple[str, ...]

MAX_BYTES = 64 * 2**20  # of a manifest: some 100,000 jobs


@dataclass(frozen=True)
class Place:
    """Where a job is written down. line, column: from 1; line 0 is a file of a folder of inputs."""

    file: Path
    line: int = 0
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else str(self.file)


@dataclass(frozen=True)
class Row:
    """One job as written: the flags' names, without dashes in front and with - between words, and their values."""

    place: Place
    number: int
    values: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """A job that cannot be read, or cannot be made. number: its place among the jobs, from 1."""

    place: Place
    number: int
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class Misread(ValueError):
    """A row that is none, with the column (from 1) at which that shows."""

    def __init__(self, message: str, column: int = 1, line: int | None = None) -> None:
        super().__init__(message)
        self.column, self.line = column, line


def read_manifest(path: Path) -> list[Row | Fault]:
    """The rows of a manifest in order, and a fault for each that cannot be read.

    RequestError for a file that is no manifest as a whole: not there, too large, not UTF-8, of another kind, empty.
    """
    from sky4.batch.manifest_yaml import yaml_rows

    readers = {".jsonl": _json_rows, ".ndjson": _json_rows, ".csv": _csv_rows, ".yaml": yaml_rows, ".yml": yaml_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise RequestError(f"'{path}' is no list of jobs; give a .jsonl, .csv or .yaml file, or a folder of inputs")
    rows = list(reader(path, _text(path)))
    if not rows:
        raise RequestError(f"'{path}' holds no job; write one on a line")
    return rows


def tidy_name(name: str) -> str:
    """A flag's name as a row's key: '--negative_prompt' and 'negative-prompt' are one."""
    return name.strip().lstrip("-").replace("_", "-")


def _text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise RequestError(f"'{path}' has {size / 2**20:.0f} MiB, more than {MAX_BYTES >> 20} MiB; split it")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"'{path}' is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise RequestError(f"'{path}' cannot be read ({error.strerror}); give a list of jobs") from error


def plain_values(pairs: Iterable[tuple[Any, Any]]) -> dict[str, Value]:
    """A row's names and values, tidied. Misread for what no flag can take, and for a row that says nothing."""
    values: dict[str, Value] = {}
    for key, value in pairs:
        add_value(values, key, value)
    if not values:
        raise Misread("the job says nothing; give it a prompt")
    return values


def add_value(values: dict[str, Value], key: Any, value: Any) -> None:
    """Put one pair in; null is as if not there."""
    if not isinstance(key, str) or not (name := tidy_name(key)) or not _is_text(name):
        raise Misread(f"{key!r} is no name of a flag")
    if name in values:
        raise Misread(f"'{name}' is given twice; drop one")
    if value is None:
        return
    if isinstance(value, list):
        if not all(isinstance(item, str) for item in value):
            raise Misread(f"'{name}' holds something else than texts and numbers")
        value = tuple(value)
    elif not isinstance(value, str | bool):
        raise Misread(f"'{name}' must be a text, a number, true or false, or a list of texts")
    if not all(_is_text(text) for text in (value if isinstance(value, tuple) else (str(value),))):
        raise Misread(f"'{name}' holds a zero byte or half a character, which no file name and no text has")
    values[name] = value


def _is_text(value: str) -> bool:
    return "\0" not in value and not any(0xD800 <= ord(letter) < 0xE000 for letter in value)


class Pairs(list[tuple[str, Any]]):
    """A JSON object whose keys nobody has looked at yet: a name that stands there twice must show."""


def _json_rows(path: Path, text: str) -> Iterator[Row | Fault]:
    number = 0
    for line, written in enumerate(text.split("\n"), 1):
        if not written.strip():
            continue
        number += 1
        try:
            yield Row(Place(path, line), number, _json_row(written))
        except Misread as error:
            yield Fault(Place(path, line, error.column), number, str(error))


def _json_row(written: str) -> dict[str, Value]:
    def refuse(constant: str) -> None:
        raise Misread(f"{constant} is no value", written.find(constant) + 1)

    try:
        read = json.loads(written, object_pairs_hook=Pairs, parse_int=str, parse_float=str, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise Misread(f"not JSON: {error.msg}; write one {{...}} on each line", error.colno) from None
    except RecursionError:
        raise Misread("too deeply nested; a job is one flat {...}") from None
    start = len(written) - len(written.lstrip()) + 1
    if not isinstance(read, Pairs):
        raise Misread('a job is an object such as {"prompt": "...", "out": "a.mp4"}', start)
    try:
        return plain_values(read)
    except Misread as error:
        raise Misread(str(error), start) from None


def _csv_rows(path: Path, text: str) -> Iterator[Row | Fault]:
    """The first line names the flags; a name may head several columns, where the flag may be given several times."""
    lines = io.StringIO(text, newline="").readlines()
    head, line, number = None, 0, 0
    while line < len(lines):
        cells, used = _csv_record(lines, line)
        place, line = Place(path, line + 1), line + used
        if not isinstance(cells, Misread) and not any(cell.strip() for cell in cells):
            continue
        if head is None:
            if isinstance(cells, Misread):
                raise RequestError(f"{place}: the line of names cannot be read: {cells}")
            head = [tidy_name(cell) for cell in cells]
            if nameless := [index for index, name in enumerate(head, 1) if not name]:
                raise RequestError(f"{place}: column {nameless[0]} has no name; the first line names the flags")
            continue
        number += 1
        try:
            if isinstance(cells, Misread):
                raise cells
            yield Row(place, number, _csv_row(head, cells, "".join(lines[place.line - 1 : line])))
        except Misread as error:
            yield Fault(Place(path, place.line, error.column), number, str(error))


def _csv_record(lines: list[str], start: int) -> tuple[list[str] | Misread, int]:
    """(cells, how many lines they take). A quote that is never closed takes its own line alone."""
    reader = csv.reader((lines[index] for index in range(start, len(lines))), strict=True)
    try:
        cells = next(reader)
    except csv.Error as error:
        first = lines[start]
        column = first.rfind('"') + 1 if '"' in first else 1
        return Misread(f"not CSV: {error}; quote cells that hold commas or quotes", column), 1
    return cells, reader.line_num


def _csv_row(head: list[str], cells: list[str], written: str) -> dict[str, Value]:
    if len(cells) > len(head):
        extra = cells[len(head)]
        column = written.rfind(extra) + 1 if extra else len(written.rstrip("\r\n"))
        raise Misread(f"{len(cells)} cells and {len(head)} names; quote cells that hold commas", max(1, column))
    given: dict[str, list[str]] = {}
    for name, cell in zip(head, cells, strict=False):
        if cell.strip():
            given.setdefault(name, []).append(cell)
    return plain_values([(name, found[0] if len(found) == 1 else found) for name, found in given.items()])
