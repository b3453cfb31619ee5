"""A shot list as it stands in a YAML file: every key known, every fault told with its path. No torch, no model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Literal

import yaml

from sky4.config import config_from_dict
from sky4.errors import RequestError
from sky4.shots.kinds import Content, Optical

Sampler = Literal["euler", "heun", "unipc"]
Transition = Literal[
    "none",
    "cut",
    "dissolve",
    "fade",
    "wipe",
    "push",
    "cut-in",
    "cut-out",
    "shot-reverse-shot",
    "multi-angle",
    "cut-away",
]

OVERLAPPING: tuple[Optical, ...] = ("dissolve", "wipe", "push")  # both shots are seen at once
LONGEST_SECONDS = 600  # of one shot, and of the film: its sound is held in memory
MAX_SHOTS = 1000
MAX_BYTES = 4 * 2**20  # of the file
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class ShotEntry:
    """One shot. seconds: of the film; transition: how it begins; continues: the shot from whose end it goes on;
    match: the shot whose colours it takes on. What is None is as in the film, or as the model's defaults say."""

    prompt: str
    name: str = ""
    seconds: Fraction | None = None
    transition: Transition = "cut"
    transition_seconds: Fraction | None = None
    continues: str | None = None
    image: str | None = None  # the first frame
    references: Mapping[str, str] = field(default_factory=dict)
    match: str | None = None
    seed: int | None = None
    negative_prompt: str | None = None
    steps: int | None = None
    sampler: Sampler | None = None
    guidance: float | None = None
    audio_guidance: float | None = None
    shift: float | None = None


@dataclass(frozen=True)
class ShotList:
    """A film. Settings beside `shots` are those of every shot that has none of its own."""

    shots: tuple[ShotEntry, ...]
    title: str = ""
    size: str | None = None
    fps: Fraction | None = None
    sound: bool = True
    seconds: Fraction | None = None
    transition_seconds: Fraction = Fraction(1, 2)
    references: Mapping[str, str] = field(default_factory=dict)
    match: str | None = None
    seed: int = 0
    negative_prompt: str = ""
    steps: int | None = None
    sampler: Sampler | None = None
    guidance: float | None = None
    audio_guidance: float | None = None
    shift: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of every shot: its own, else shot-1, shot-2 ..."""
        return tuple(shot.name or f"shot-{number}" for number, shot in enumerate(self.shots, start=1))

    def order(self) -> tuple[int, ...]:
        """The shots in an order in which each comes behind the one that it continues."""
        graph = {number: [] if entry.continues is None else [self.names.index(entry.continues)]
                 for number, entry in enumerate(self.shots)}  # fmt: skip
        return tuple(TopologicalSorter(graph).static_order())


def read_shot_list(path: Path) -> ShotList:
    """RequestError, in one sentence with the path of the key, for a list that no film can be made from."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RequestError(f"'{path}' has more than {MAX_BYTES // 2**20} MiB, which is no shot list")
        values = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise RequestError(f"'{path}' does not exist or cannot be read; give a YAML file of shots") from error
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise RequestError(f"'{path}' is no YAML{_place(error)}; see `sky4 film --help` for an example") from error
    if not isinstance(values, Mapping):
        raise RequestError(f"'{path}' holds no table of settings; it begins with 'shots:'")
    try:
        film = config_from_dict(ShotList, values, "film")
    except ValueError as error:
        raise RequestError(f"'{path}': {error}") from error
    try:
        _check(film)
    except RequestError as error:
        raise RequestError(f"'{path}': {error}") from error
    return film


def _place(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"


def _check(film: ShotList) -> None:
    if not film.shots:
        raise RequestError("film.shots is empty; give at least one shot with a prompt")
    if len(film.shots) > MAX_SHOTS:
        raise RequestError(f"film.shots has {len(film.shots)} shots, more than {MAX_SHOTS}; cut the film in parts")
    names = film.names
    for number, (shot, name) in enumerate(zip(film.shots, names, strict=True)):
        at = f"film.shots[{number}]"
        if not NAME.fullmatch(name):
            raise RequestError(f"{at}.name {name!r} is no name; use letters, digits, _ and -")
        if names.index(name) != number:
            raise RequestError(f"{at}.name {name} is taken by film.shots[{names.index(name)}]; choose another")
        if not shot.prompt.strip():
            raise RequestError(f"{at}.prompt is empty; describe the shot in a sentence")
        for key, value in (("seconds", shot.seconds), ("transition_seconds", shot.transition_seconds)):
            if value is not None and not 0 < value <= LONGEST_SECONDS:
                raise RequestError(f"{at}.{key} {float(value):g} is outside 0 to {LONGEST_SECONDS} seconds")
        for key, other in (("continues", shot.continues), ("match", shot.match)):
            if other is not None and other not in names:
                raise RequestError(f"{at}.{key}: there is no shot {other!r}; there are {', '.join(names)}")
        _check_transition(at, number, shot)
    for key, seconds in (("seconds", film.seconds), ("transition_seconds", film.transition_seconds)):
        if seconds is not None and not 0 < seconds <= LONGEST_SECONDS:
            raise RequestError(f"film.{key} {float(seconds):g} is outside 0 to {LONGEST_SECONDS} seconds")
    if film.match is not None and film.match not in names:
        raise RequestError(f"film.match: there is no shot {film.match!r}; there are {', '.join(names)}")
    try:
        film.order()
    except CycleError as error:
        circle = " -> ".join(names[number] for number in reversed(error.args[1]))
        raise RequestError(f"film.shots continue one another in a circle: {circle}; let one begin by itself") from error


def _check_transition(at: str, number: int, shot: ShotEntry) -> None:
    if shot.transition == "none" and shot.continues is None:
        raise RequestError(f"{at}.transition none goes on from another shot; name it with continues, or use cut")
    if number == 0 and shot.transition not in ("none", "cut", "fade"):
        raise RequestError(f"{at}.transition {shot.transition} needs a shot before it; the first has cut or fade")
    if shot.image is not None and shot.continues is not None:
        raise RequestError(f"{at} has an image and continues {shot.continues}; it begins with one of them, drop one")


def optical_of(transition: Transition) -> Optical:
    """How the shot is joined to the one before: a transition by content is a cut."""
    joined: dict[str, Optical] = {"dissolve": "dissolve", "fade": "fade", "wipe": "wipe", "push": "push"}
    return joined.get(transition, "cut")


def content_of(transition: Transition) -> Content | None:
    """What the two shots show, where that is asked for."""
    contents: dict[str, Content] = {
        "cut-in": "cut-in",
        "cut-out": "cut-out",
        "shot-reverse-shot": "shot-reverse-shot",
        "multi-angle": "multi-angle",
        "cut-away": "cut-away",
    }
    return contents.get(transition)
