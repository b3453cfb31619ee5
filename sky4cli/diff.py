"""`sky4 diff`: what two clips' recipes have not in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sky4cli.options import Json

EXAMPLES = (
    "sky4 diff made.mp4 made.mp4",
    "sky4 diff made.mp4 made.mp4 --json",
)


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A file that sky4 wrote, or its sidecar.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
    as_json: Json = False,
) -> None:
    """Print where the recipes of two files differ, as PATH: A -> B; exit 1 where they do."""
    from sky4.media.recipe import read_recipe
    from sky4cli.recipes import differences

    found = differences(read_recipe(a), read_recipe(b))
    if as_json:
        told = [{"path": one.path, "a": one.before, "b": one.after} for one in found]
        print(json.dumps({"a": str(a), "b": str(b), "differences": told}, separators=(",", ":")))
    else:
        for one in found:
            print(f"{one.path}: {_shown(one.before)} -> {_shown(one.after)}")
    if found:
        raise typer.Exit(1)


def _shown(value: object) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)
