"""What is done with recipes as values: a setting changed, two compared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from sky4.errors import RequestError

if TYPE_CHECKING:
    from sky4.pipeline.request import ClipRequest

# a recipe is of one clip, and the others are values of several parts
FIXED = ("variations", "canvas", "segments", "soundtrack")


def changed(request: ClipRequest, settings: Sequence[str]) -> ClipRequest:
    """The request with NAME=VALUE settings replaced, by the request's own names. RequestError, naming the setting."""
    if not settings:
        return request
    from sky4.pipeline.request import ClipRequest

    values = request.to_dict()
    plain = [
        field.name
        for field in fields(ClipRequest)
        if field.name not in FIXED and not isinstance(values.get(field.name), (dict, list))
    ]
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise RequestError(f"--set {setting}: expected NAME=VALUE, such as seed=7")
        if name not in plain:
            raise RequestError(f"--set {setting}: '{name}' is no setting of this recipe; there are {', '.join(plain)}")
        values[name] = _value(text, values[name])
        try:
            request = ClipRequest.from_dict(values)
        except RequestError as error:
            raise RequestError(f"--set {setting}: {_plain(error)}") from error
    return request


def _value(text: str, before: Any) -> Any:
    """Text stays text where text was before (a prompt of digits is a prompt); else it is read as JSON."""
    if isinstance(before, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _plain(error: RequestError) -> str:
    """What a recipe's reader says, without what it says of a file that was edited."""
    said = str(error).removeprefix("the recipe cannot be read: ").removeprefix("request: ")
    return said.removesuffix("; update sky4, or the file was edited")


@dataclass(frozen=True)
class Difference:
    """A value at a dotted path of two recipes; None where one of them has none there."""

    path: str
    before: Any
    after: Any


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Where two recipes differ, in the order of the first."""
    left, right = dict(_leaves(before)), dict(_leaves(after))
    paths = [*left, *(path for path in right if path not in left)]
    return [
        Difference(path, left.get(path), right.get(path))
        for path in paths
        if left.get(path) != right.get(path) or (path in left) != (path in right)
    ]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            yield from _leaves(item, f"{path}[{number}]")
    else:
        yield path, value
