"""Rows of a YAML list. Where the file as a whole is not YAML, item by item: a broken one spares the others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sky4.batch.manifest import Fault, Misread, Place, Row, Value, add_value
from sky4.errors import RequestError

MAX_BYTES = 16 * 2**20  # pure Python reads a megabyte in seconds
ITEM = re.compile(r"^-(?=\s|$)", re.MULTILINE)


def yaml_rows(path: Path, text: str) -> Iterator[Row | Fault]:
    """RequestError for a file that holds no list."""
    if len(text) > MAX_BYTES:
        raise RequestError(f"'{path}' has over {MAX_BYTES >> 20} MiB of YAML, which is slow to read; use .jsonl")
    try:
        nodes = _items(text)
    except (yaml.YAMLError, RecursionError):
        yield from _one_by_one(path, text)
        return
    except Misread as error:
        raise RequestError(f"{Place(path, error.line or 1, error.column)}: {error}") from None
    for number, node in enumerate(nodes, 1):
        yield _row(path, number, node, 0)


def _one_by_one(path: Path, text: str) -> Iterator[Row | Fault]:
    """Each item that begins at a line's start by itself; anchors of one then do not reach another."""
    starts = [found.start() for found in ITEM.finditer(text)]
    if not starts:
        raise RequestError(f"'{path}' is not YAML; write a list, each job from '- ' on")
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(text)], strict=True), 1):
        before = text.count("\n", 0, start)
        try:
            [node] = _items(text[start:end])
        except (yaml.YAMLError, RecursionError, Misread) as error:
            mark = getattr(error, "problem_mark", None)
            line, column = before + 1, 1
            if mark is not None and mark.line < text.count("\n", start, end):  # else it misses something at its end
                line, column = before + mark.line + 1, mark.column + 1
            said = getattr(error, "problem", None) or "it cannot be read"
            yield Fault(Place(path, line, column), number, f"not YAML: {said}")
            continue
        yield _row(path, number, node, before)


def _items(text: str) -> list[yaml.Node]:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is None:
        return []
    if not isinstance(root, yaml.SequenceNode):
        raise Misread(
            "a list of jobs is expected, each from '- ' on", root.start_mark.column + 1, root.start_mark.line + 1
        )
    return list(root.value)


def _row(path: Path, number: int, node: yaml.Node, before: int) -> Row | Fault:
    place = Place(path, before + node.start_mark.line + 1, node.start_mark.column + 1)
    try:
        return Row(place, number, _values(node))
    except Misread as error:
        line = place.line if error.line is None else before + error.line
        return Fault(Place(path, line, error.column if error.line is not None else place.column), number, str(error))


def _values(node: yaml.Node) -> dict[str, Value]:
    """Misread with the place of what cannot be read. `<<: *other` takes over what is not said here."""
    if not isinstance(node, yaml.MappingNode):
        raise Misread("a job is a mapping such as 'prompt: a red circle'")
    own: list[tuple[Any, Any]] = []
    merged: list[yaml.Node] = []
    for key, value in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
        else:
            own.append((key, value))
    names = {key.value for key, _ in own if isinstance(key, yaml.ScalarNode)}
    for other in merged:
        if not isinstance(other, yaml.MappingNode):
            raise Misread("'<<' takes over a mapping", other.start_mark.column + 1, other.start_mark.line + 1)
        for key, value in other.value:
            if isinstance(key, yaml.ScalarNode) and key.value not in names and not key.tag.endswith(":merge"):
                names.add(key.value)
                own.append((key, value))
    values: dict[str, Value] = {}
    for key, value in own:
        try:
            add_value(values, key.value, _plain(value))
        except Misread as error:
            raise Misread(str(error), key.start_mark.column + 1, key.start_mark.line + 1) from None
    if not values:
        raise Misread("the job says nothing; give it a prompt")
    return values


def _plain(node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):  # of scalars only: aliases inside could unfold without end
        return [item.value if isinstance(item, yaml.ScalarNode) else item for item in node.value]
    if not isinstance(node, yaml.ScalarNode):
        return node
    if node.style is None and node.tag == "tag:yaml.org,2002:bool":
        return node.value.lower() in ("true", "yes", "on")
    return None if node.style is None and node.tag == "tag:yaml.org,2002:null" else node.value
