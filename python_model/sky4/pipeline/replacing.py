"""Small files of JSON, replaced whole; where a user's cache lies. No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sky4.files import replacing


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(values, indent=1, ensure_ascii=True), "utf-8")


def read_json(path: Path) -> dict[str, Any] | None:
    """None where there is no such file, or no JSON object in it."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def cache_folder() -> Path:
    """Where what can be made again is kept: $XDG_CACHE_HOME/sky4, ~/.cache/sky4."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if os.path.isabs(root) else Path.home() / ".cache") / "sky4"
