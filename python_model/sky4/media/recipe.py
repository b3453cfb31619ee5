"""The recipe inside the file: how the clip was made, as JSON in the container's comment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
from PIL import Image, UnidentifiedImageError

from sky4.errors import RequestError
from sky4.media.destination import RECIPE_NAME
from sky4.media.opening import OPTIONS, located

COMMENT = "comment"  # every container here has it, and players, exiftool and ffprobe show it
FORMAT = "sky4-recipe"


def encode_recipe(recipe: Mapping[str, Any]) -> str:
    """One line of ASCII JSON: no container then has to agree with us on an encoding."""
    return json.dumps({"format": FORMAT, **recipe}, ensure_ascii=True, separators=(",", ":"), allow_nan=False)


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe of a clip, picture or folder that sky4 wrote. RequestError where there is none."""
    if not path.exists():
        raise RequestError(f"'{path}' does not exist; give a file that sky4 wrote")
    text = _comment(path)
    try:
        recipe = json.loads(text)
    except json.JSONDecodeError:
        recipe = None
    if not isinstance(recipe, dict) or recipe.get("format") != FORMAT:
        raise RequestError(f"'{path}' holds no sky4 recipe; it was not written by sky4, or something re-encoded it")
    return recipe


def _comment(path: Path) -> str:
    if path.is_dir() or path.suffix.lower() == ".json":
        source = path / RECIPE_NAME if path.is_dir() else path
        try:
            return source.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return ""
    if path.suffix.lower() == ".png":
        try:
            with Image.open(path) as picture:
                return str(getattr(picture, "text", {}).get(COMMENT, ""))
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
            return ""
    try:
        with av.open(located(path), options=OPTIONS) as container:
            tags = {key.lower(): value for key, value in container.metadata.items()}  # Matroska writes COMMENT
    except (av.error.FFmpegError, OSError):
        return ""
    return str(tags.get(COMMENT, ""))
