"""What a command makes of its flags: a request, where the clip goes, what computes it. Nothing is made or written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sky4.pipeline.engine import Engine
from sky4cli.following import UNFOLLOWED, Following

if TYPE_CHECKING:
    from sky4.media import Provenance
    from sky4.pipeline.request import ClipRequest

__all__ = ["Engine", "Planned"]


@dataclass(frozen=True)
class Planned:
    """What a command is asked to make. notes: worth saying once, beside what is said of every request.

    following: how the run is followed and kept while it goes on. provenance: where the recipe goes, and who signs;
    None is into the file.
    """

    request: ClipRequest
    engine: Engine
    out: Path
    force: bool = False
    as_json: bool = False
    quiet: bool = False
    enhancer: Path | None = None
    notes: tuple[str, ...] = ()
    following: Following = UNFOLLOWED
    provenance: Provenance | None = None
