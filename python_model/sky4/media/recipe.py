"""The recipe: how a clip was made, as JSON in the container's comment, its XMP box, or a file beside it (RECIPE.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import av
from PIL import Image, UnidentifiedImageError

from sky4.errors import RequestError
from sky4.media import xmp
from sky4.media.destination import RECIPE_NAME
from sky4.media.opening import OPTIONS, PATIENCE, located

COMMENT = "comment"  # every container here has it, and players, exiftool and ffprobe show it
FORMAT = "sky4-recipe"
VERSION = 1  # of what RECIPE.md documents; raised when a field changes its meaning
MOST_BYTES = xmp.MOST_BYTES


def encode_recipe(recipe: Mapping[str, Any]) -> str:
    """One line of ASCII JSON: no container then has to agree with us on an encoding."""
    return json.dumps({"format": FORMAT, **recipe}, ensure_ascii=True, separators=(",", ":"), allow_nan=False)


def sidecar_of(path: Path) -> Path:
    """Where the recipe of a file lies that has it beside it: clip.mp4.json."""
    return path.parent / f"{path.name}.json"  # of "." too, which has no name


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe of a clip, picture or folder that sky4 wrote, or of its sidecar. RequestError where there is none."""
    if not path.exists():
        raise RequestError(f"'{path}' does not exist; give a file that sky4 wrote")
    if not (path.is_file() or path.is_dir()):  # a pipe or a device may never end, or never begin
        raise RequestError(f"'{path}' is neither a file nor a folder; give a file that sky4 wrote")
    for text in _places(path):
        recipe = _parsed(text)
        if recipe is not None:
            return recipe
    raise RequestError(f"'{path}' holds no sky4 recipe; it was not written by sky4, or something re-encoded it")


def _parsed(text: str) -> dict[str, Any] | None:
    if len(text) > MOST_BYTES or FORMAT not in text:
        return None
    try:
        recipe = json.loads(text)
    except (ValueError, RecursionError):  # broken, or nested without end
        return None
    return recipe if isinstance(recipe, dict) and recipe.get("format") == FORMAT else None


def _places(path: Path) -> Iterator[str]:
    """What may be the recipe, the likeliest first."""
    if path.is_dir():
        yield _text_of(path / RECIPE_NAME)
    elif path.suffix.lower() == ".json":
        yield _text_of(path)
    elif path.suffix.lower() == ".png":
        yield _picture_text(path)
    else:
        yield _comment(path)
        yield xmp.read_recipe_text(path)
    yield _text_of(sidecar_of(path))


def _text_of(path: Path) -> str:
    if not path.is_file():
        return ""
    try:
        with path.open("r", encoding="utf-8") as file:
            return file.read(MOST_BYTES + 1)
    except (OSError, UnicodeDecodeError):
        return ""


def _picture_text(path: Path) -> str:
    try:
        with Image.open(path) as picture:
            return str(getattr(picture, "text", {}).get(COMMENT, ""))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""


def _comment(path: Path) -> str:
    try:
        with av.open(located(path), options=OPTIONS, timeout=PATIENCE) as container:
            tags = {key.lower(): value for key, value in container.metadata.items()}  # Matroska writes COMMENT
    except (av.error.FFmpegError, OSError, ValueError):  # ValueError: metadata that is no UTF-8
        return ""
    return str(tags.get(COMMENT, ""))
