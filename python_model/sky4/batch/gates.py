"""A batch's clips held against the gates of `sky4 check`: what one refuses is set aside, not passed off as made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sky4.batch.outputs import remove_output
from sky4.checking import Limits, judge, measure, verdict_values
from sky4.media import Provenance
from sky4.media.recipe import sidecar_of

REFUSED = "refused"  # inside the folder of outputs: clips that a gate refused, by their outputs' names

NO_CHECK: dict[str, Any] = {"gates": {}}  # of a clip that nobody asked to be checked


def checked(path: Path, provenance: Provenance) -> dict[str, Any]:
    """What `sky4 check` says of a clip that was just written, with its usual limits, as JSON values."""
    return verdict_values(judge(measure(path), Limits(), () if provenance.inside else ("recipe",)))


def refusal(check: Mapping[str, Any]) -> str:
    """Why the clip does not count as made, gate by gate in one sentence; "" where it passed."""
    failed = [(name, gate["told"]) for name, gate in check["gates"].items() if gate["passed"] is False]
    if not failed:
        return ""
    named = "gate" if len(failed) == 1 else "gates"
    said = ", ".join(f"'{name}' ({told})" for name, told in failed)
    return f"refused by the {named} {said} of `sky4 check`"


def set_aside(out: Path, root: Path, name: str) -> Path:
    """Move a refused clip, and its sidecar, into the batch's folder for such, in the place of an earlier one of its
    name; returns where it lies. OSError where that cannot be."""
    place = root / REFUSED / (Path(name).name if Path(name).is_absolute() else name)
    place.parent.mkdir(parents=True, exist_ok=True)
    remove_output(place)
    os.replace(out, place)
    if sidecar_of(out).is_file():
        os.replace(sidecar_of(out), sidecar_of(place))
    return place
