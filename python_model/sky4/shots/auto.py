"""Which shot should follow a clip, where the user leaves that to us: a simple rule, stated and told."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from sky4.shots.cutting import FilmShots, Shot
from sky4.shots.kinds import Content
from sky4.shots.words import read_switches

LONG = Fraction(4)  # seconds after which a shot has been looked at


@dataclass(frozen=True)
class Choice:
    """The kind, and why: the end of a sentence."""

    kind: Content | Literal["none"]
    why: str


def choose_transition(prompt: str, film: FilmShots, until: Fraction) -> Choice:
    """What the prompt names; else nothing while the clip's last shot is younger than LONG at `until` seconds; else a
    step back from what the last transition came near to, and otherwise a step nearer."""
    named = read_switches(prompt)
    if named:
        return Choice(named[0], "as the prompt names it")
    before: Shot | None = None
    last: Shot | None = None
    for shot in film:
        if shot.begins >= until:
            break
        before, last = last, shot
    assert last is not None, "a film has a shot"
    lasted = until - last.begins
    if lasted < LONG:
        return Choice("none", f"as the last shot is {float(lasted):.1f} s old, and not yet {float(LONG):g} s")
    near = before is not None and before.then is not None and before.then.content == "cut-in"
    kind: Content = "cut-out" if near else "cut-in"
    return Choice(kind, f"as the last shot has lasted {float(lasted):.1f} s")
