"""`sky4 show`: the recipe inside a file, and what its Content Credentials are worth."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sky4.errors import RequestError, Sky4Failure
from sky4cli.options import Json

if TYPE_CHECKING:
    from sky4.media.credentials import Verification

EXAMPLES = (
    "sky4 show made.mp4",
    "sky4 show made.mp4 --json",
)


def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A clip, picture, sound or folder that sky4 wrote.")],
    as_json: Json = False,
) -> None:
    """Print how a clip was made, and verify its Content Credentials; exit 1 where they do not fit the file."""
    from sky4.media.recipe import read_recipe

    verified, fault = _verified(file)
    try:
        recipe = read_recipe(file)
    except RequestError:
        if verified is None:
            raise
        recipe = {}
    if verified is not None:
        recipe = {**recipe, "content_credentials": _values(verified)}
    print(json.dumps(recipe, indent=None if as_json else 2, ensure_ascii=as_json))
    if fault:
        print(f"sky4: note: {fault}", file=sys.stderr)
    if verified is not None and not verified.valid:
        raise Sky4Failure(
            f"the Content Credentials of '{file}' do not hold ({', '.join(verified.problems) or 'unreadable'}); "
            "the file was changed after it was signed"
        )


def _verified(file: Path) -> tuple[Verification | None, str]:
    """(what the file's credentials are worth, why that cannot be told)."""
    from sky4.media.credentials import verify

    if not file.is_file():
        return None, ""
    try:
        return verify(file), ""
    except RequestError as error:
        return None, str(error)


def _values(verified: Verification) -> dict[str, Any]:
    return {"valid": verified.valid, "signer": verified.signer, "problems": list(verified.problems)}
