"""Measured cases, kept one by one: a long measurement that was ended goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sky4.media.destination import whole_or_nothing
from sky4.pipeline.replacing import write_json

CASES = "cases"


class CaseFolder:
    """A folder's `cases/00012.json` with its picture, of one measurement; what belongs to another is measured anew."""

    def __init__(self, folder: Path, belongs: Mapping[str, Any]) -> None:
        """belongs: JSON values that tell this measurement from others."""
        self.folder = folder / CASES
        self.belongs = json.loads(json.dumps(belongs))

    def read(self, index: int) -> tuple[dict[str, Any], NDArray[np.uint8]] | None:
        """(values, picture [H, W, 3]) of a case; None where it is not there, or of another measurement."""
        try:
            kept = json.loads(self._path(index, "json").read_text("utf-8"))
            if kept["belongs"] != self.belongs:
                return None
            return kept["values"], np.asarray(Image.open(self._path(index, "png")).convert("RGB"))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, index: int, values: Mapping[str, Any], picture: NDArray[np.uint8]) -> None:
        """The values last: a case without them was not measured to its end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_or_nothing(self._path(index, "png"), force=True) as partial:
            Image.fromarray(picture).save(partial, format="PNG")
        write_json(self._path(index, "json"), {"belongs": self.belongs, "values": dict(values)})

    def _path(self, index: int, suffix: str) -> Path:
        return self.folder / f"{index:05d}.{suffix}"
