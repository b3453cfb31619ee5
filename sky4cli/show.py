"""`sky4 show`: the recipe inside a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sky4cli.options import Json


def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A clip, picture, sound or folder that sky4 wrote.")],
    as_json: Json = False,
) -> None:
    """Print how a clip was made."""
    from sky4.media.recipe import read_recipe

    recipe = read_recipe(file)
    print(json.dumps(recipe, indent=None if as_json else 2, ensure_ascii=as_json))
