"""How good a detector is, where the truth is known: transitions found, missed and made up, by kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sky4.shots.kinds import CONTENTS, OPTICALS, Content, Optical


@dataclass(frozen=True)
class Truth:
    """begin, end: seconds; the same for a cut."""

    begin: float
    end: float
    optical: Optical
    content: Content


@dataclass(frozen=True)
class Found:
    """What a detector says, in the same terms."""

    begin: float
    end: float
    optical: Optical
    content: Content | None = None


@dataclass
class Score:
    """Counts over films. right: found where one is and of its optical kind, by kind; there, said: all that are there,
    and all that are said to be. contents: (asked, told) pairs of transitions that were found."""

    right: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OPTICALS, 0))
    there: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OPTICALS, 0))
    said: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OPTICALS, 0))
    placed: int = 0  # found where one is, of whatever kind
    contents: list[tuple[Content, Content | None]] = field(default_factory=list)

    def add(self, found: Sequence[Found], truth: Sequence[Truth], tolerance: float) -> None:
        """One film. A transition is found where one span lies within `tolerance` seconds of the other; each counts
        once, those of one kind first."""
        for one in truth:
            self.there[one.optical] += 1
        for other in found:
            self.said[other.optical] += 1
        left, open_ = list(found), list(truth)
        for same_kind in (True, False):
            for one in list(open_):
                near = [
                    other
                    for other in left
                    if other.begin - tolerance <= one.end + 1e-9
                    and other.end + tolerance >= one.begin - 1e-9
                    and (other.optical == one.optical) == same_kind
                ]
                if not near:
                    continue
                best = min(near, key=lambda other: abs(other.begin + other.end - one.begin - one.end))
                left.remove(best)
                open_.remove(one)
                self.placed += 1
                self.right[one.optical] += same_kind
                self.contents.append((one.content, best.content))

    def precision(self, *kinds: str) -> float:
        """Of what is said to be of these kinds, the part that is. NaN where nothing is said."""
        return _ratio(self.right, self.said, kinds)

    def recall(self, *kinds: str) -> float:
        """Of what is of these kinds, the part that is found as such."""
        return _ratio(self.right, self.there, kinds)

    def content(self, kind: str) -> float:
        """Of the found transitions of this content, the part that is told so."""
        told = [found for asked, found in self.contents if asked == kind]
        return sum(found == kind for found in told) / len(told) if told else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        kinds = {
            kind: {
                "precision": _plain(self.precision(kind)),
                "recall": _plain(self.recall(kind)),
                "count": self.there[kind],
            }
            for kind in OPTICALS
        }
        contents = {kind: _plain(self.content(kind)) for kind in CONTENTS}
        return {"optical": kinds, "content": contents, "found": self.placed, "count": sum(self.there.values())}


def _ratio(right: dict[str, int], of: dict[str, int], kinds: Sequence[str]) -> float:
    whole = sum(of[kind] for kind in kinds)
    return sum(right[kind] for kind in kinds) / whole if whole else float("nan")


def _plain(value: float) -> float | None:
    """JSON has no number that is none."""
    return None if value != value else round(value, 4)
