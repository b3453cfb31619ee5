"""What is seen during a transition: two pictures made one, for NumPy arrays and tensors alike."""

from __future__ import annotations

from typing import Any, TypeVar

from sky4.shots.kinds import Optical

Picture = TypeVar("Picture", bound=Any)  # an array or a tensor [H, W, 3] of floats


def mixed(kind: Optical, before: Picture, after: Picture, share: float) -> Picture:
    """The transition of `kind` when `share` (0 to 1) of it is over. Wipes and pushes come in from the right."""
    if kind == "dissolve":
        return before + (after - before) * share  # type: ignore[no-any-return]
    if kind == "fade":
        return before * max(0.0, 1 - 2 * share) + after * max(0.0, 2 * share - 1)  # type: ignore[no-any-return]
    width = before.shape[1]
    edge = round(share * width) if kind in ("wipe", "push") else width if share > 0 else 0
    picture = before * 1.0
    if kind == "push":
        picture[:, : width - edge] = before[:, edge:]
        picture[:, width - edge :] = after[:, :edge]
    else:
        picture[:, width - edge :] = after[:, width - edge :]
    return picture  # type: ignore[no-any-return]
