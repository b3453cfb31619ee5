"""`sky4 config`: which defaults are set, and where."""

from __future__ import annotations

import json
import os
from pathlib import Path

import typer

from sky4cli.options import Json
from sky4cli.settings import files, settings_in_force, told_unknown, unknown_names

EXAMPLES = (
    "sky4 config",
    "sky4 config --json",
)


def config(context: typer.Context, as_json: Json = False) -> None:
    """Print the defaults that are set by SKY4_*, ./sky4.toml and the user's sky4.toml, each with its place.

    A flag beats the environment, that the working folder's file, that the user's file, and that the model's defaults.
    """
    root = context.find_root().command
    found = settings_in_force(root, os.environ, Path.cwd())
    places = files(os.environ, Path.cwd())
    unknown = unknown_names(root, os.environ)
    if as_json:
        told = [{"command": one.command, "option": one.option, "value": one.value, "from": one.origin} for one in found]
        values = {"files": [str(place) for place in places], "settings": told, "unknown": unknown}
        print(json.dumps(values, separators=(",", ":")))
        return
    for one in found:
        print(f"{f'{one.command} --{one.option}'.strip():<32} {json.dumps(one.value):<16} {one.origin}")
    for place in places:
        print(f"{place}: {'read' if place.is_file() else 'not there'}")
    if unknown:
        print(told_unknown(unknown))
