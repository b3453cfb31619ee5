"""What lies at a job's place: the clip that the journal tells of, another clip of sky4, or somebody's file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sky4.batch.keys import signature_of
from sky4.errors import RequestError
from sky4.media import read_recipe
from sky4.media.recipe import sidecar_of
from sky4.pipeline.digest import file_digest


def mark_of(path: Path) -> dict[str, Any]:
    """What tells a written output from another later, as JSON values. OSError where it is not there."""
    return {"files": [list(entry[:3]) for entry in signature_of(path)], "digest": file_digest(path)}


def is_marked(path: Path, mark: Mapping[str, Any] | None) -> bool:
    """Whether the output is the one that was written: by size and time, else by content (a copied folder)."""
    if mark is None:
        return False
    try:
        same = [list(entry[:3]) for entry in signature_of(path)] == mark.get("files")
        return same or file_digest(path) == mark.get("digest")
    except OSError:
        return False


def recipe_of(path: Path) -> dict[str, Any] | None:
    """The recipe inside an output; None for a file that sky4 did not write."""
    try:
        return read_recipe(path)
    except RequestError:
        return None


def sweep_partials(path: Path) -> None:
    """Remove what killed processes left beside an output. For the holder of its lock: nobody else writes it."""
    with suppress(OSError):
        for name in os.listdir(path.parent):
            if name.startswith(f".{path.name}.") and name.endswith(".partial"):
                _remove(path.with_name(name))


def remove_output(path: Path) -> None:
    """Remove what a job of this batch has written, and its recipe beside it."""
    with suppress(OSError):
        _remove(path)
        if sidecar_of(path).is_file():
            _remove(sidecar_of(path))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
