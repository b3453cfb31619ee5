"""From a shot list to requests: what each shot is made from, how many frames of it, and what tells it from others.

A shot is as long in the film as it says. Behind its end it is made a little longer (its handle), so that a dissolve has
something to dissolve from and the next shot's sound something to be faded out of.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

from sky4.errors import RequestError
from sky4.film.shot_list import (
    LONGEST_SECONDS,
    OVERLAPPING,
    ShotEntry,
    ShotList,
    content_of,
    optical_of,
    read_shot_list,
)
from sky4.pipeline.joining import FADE_SECONDS
from sky4.pipeline.model_folder import ModelFolder
from sky4.pipeline.request import Canvas, ClipRequest, Source
from sky4.pipeline.segments import choose_segments
from sky4.pipeline.validate import validate
from sky4.prompting.references import resolve_references
from sky4.shots.kinds import Optical
from sky4.shots.words import read_switches, switched

KEY_VERSION = 1  # raised when the same request makes other frames or sound


@dataclass(frozen=True)
class PlannedShot:
    """frames: in the film; handle: made behind them. begins: its first frame in the film. joined: how it begins, over
    `joined_frames`. request: makes its frames and handle, and in front of them `kept` frames of the shot `continues`,
    whose file it names where that is made. match: the number of the shot whose colours it takes on."""

    number: int
    name: str
    entry: ShotEntry
    begins: int
    frames: int
    handle: int
    joined: Optical
    joined_frames: int
    request: ClipRequest
    continues: int | None
    kept: int
    match: int | None

    @property
    def made(self) -> int:
        """Frames of its file."""
        return self.frames + self.handle

    @property
    def overlaps(self) -> bool:
        """Whether it is seen together with the shot before."""
        return self.joined in OVERLAPPING


@dataclass(frozen=True)
class FilmPlan:
    """All shots in the film's order, and the order in which they are made."""

    title: str
    shots: tuple[PlannedShot, ...]
    order: tuple[int, ...]
    fps: Fraction
    width: int
    height: int
    sound: bool

    @property
    def frames(self) -> int:
        return sum(shot.frames for shot in self.shots)

    @property
    def seconds(self) -> Fraction:
        return self.frames / self.fps


def plan_film(path: Path, folder: ModelFolder) -> FilmPlan:
    """The film of a shot list with this model. RequestError for what could not be made in the end, shot by shot."""
    film = read_shot_list(path)
    defaults = folder.defaults
    fps = defaults.fps if film.fps is None else film.fps
    if not 0 < fps <= 240:
        raise RequestError(f"'{path}': film.fps {fps} is outside 0 to 240 frames a second; 16 is usual")
    width, height = (defaults.width, defaults.height) if film.size is None else _size(film.size, path)
    if width % 2 or height % 2:
        raise RequestError(f"'{path}': film.size {width}x{height}: a film has even sides")
    usual = film.seconds if film.seconds is not None else defaults.frames / defaults.fps
    lengths = [max(1, round((usual if shot.seconds is None else shot.seconds) * fps)) for shot in film.shots]
    if sum(lengths) > LONGEST_SECONDS * fps:
        raise RequestError(f"'{path}': the film lasts {float(sum(lengths) / fps):.0f} s, more than {LONGEST_SECONDS} s")
    joins = [_joined_frames(film, number, lengths, fps, path) for number in range(len(film.shots))]
    least = ceil(Fraction(FADE_SECONDS).limit_denominator(1000) * fps)
    shots: list[PlannedShot] = []
    for number, (entry, name) in enumerate(zip(film.shots, film.names, strict=True)):
        following = number + 1
        overlap = joins[following] if following < len(joins) and film.shots[following].transition in OVERLAPPING else 0
        handle = max(least, overlap)
        match = entry.match or film.match
        continues = None if entry.continues is None else film.names.index(entry.continues)
        try:
            request, kept = _request(film, entry, path.parent, folder, fps, (width, height), lengths, number, handle)
        except RequestError as error:
            raise RequestError(f"'{path}': film.shots[{number}]: {error}") from error
        shots.append(
            PlannedShot(
                number=number,
                name=name,
                entry=entry,
                begins=sum(lengths[:number]),
                frames=lengths[number],
                handle=handle,
                joined=optical_of(entry.transition),
                joined_frames=joins[number],
                request=request,
                continues=continues,
                kept=kept,
                match=None if match in (None, name) else film.names.index(str(match)),
            )
        )
    return FilmPlan(film.title or path.stem, tuple(shots), film.order(), fps, width, height, film.sound)


def _size(text: str, path: Path) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip())
    if found is None:
        raise RequestError(f"'{path}': film.size {text!r}: expected WIDTHxHEIGHT in pixels, for example 64x64")
    return int(found[1]), int(found[2])


def _joined_frames(film: ShotList, number: int, lengths: list[int], fps: Fraction, path: Path) -> int:
    """How many frames the shot's transition takes; 0 for a cut."""
    entry = film.shots[number]
    if optical_of(entry.transition) == "cut":
        return 0
    seconds = film.transition_seconds if entry.transition_seconds is None else entry.transition_seconds
    frames = max(2, round(seconds * fps))
    room = min(lengths[max(0, number - 1)], lengths[number])
    if frames > room:
        at = f"film.shots[{number}].transition_seconds"
        raise RequestError(
            f"'{path}': {at}: the {entry.transition} takes {frames} frames and the shorter of its shots has {room}; "
            f"use {float(room / fps):g} s or less"
        )
    return frames


def _request(
    film: ShotList,
    entry: ShotEntry,
    home: Path,
    folder: ModelFolder,
    fps: Fraction,
    size: tuple[int, int],
    lengths: list[int],
    number: int,
    handle: int,
) -> tuple[ClipRequest, int]:
    """(what makes the shot, how many frames of the one that it continues lie in front). Checked as any request."""
    references = {**film.references, **entry.references}
    content = content_of(entry.transition)
    prompt = entry.prompt
    if content is not None and content not in read_switches(prompt):
        prompt = switched(prompt, content)
    used = [
        f"{name}={home / file}" for name, file in references.items() if name in entry.references or _names(prompt, name)
    ]
    made = lengths[number] + handle
    request = _sampled(film, entry, folder, prompt, size, made, fps)
    request = replace(request, references=resolve_references(used))
    if entry.image is not None:
        request = replace(request, sources=(Source(home / entry.image, "image"),))
    if entry.continues is None:
        if made > folder.defaults.frames:
            request = replace(request, segments=choose_segments("the shot", made, made - 1, folder))
        validate(request, folder)
        return request, 0
    given = lengths[film.names.index(entry.continues)]
    segments = choose_segments(f"the shot {entry.continues}", given, made, folder)
    validate(replace(request, frames=segments.frames), folder)
    kept = segments.overlap
    source = Source(Path(entry.continues), "continues", frames=kept, skip=given - kept)
    request = replace(
        request,
        frames=kept + made,
        sources=(source,),
        canvas=Canvas(*size),
        segments=replace(segments, transition=content or "none"),
    )
    return request, kept


def _names(prompt: str, name: str) -> bool:
    return re.search(rf"@{re.escape(name)}(?![A-Za-z0-9_-])", prompt) is not None


def _sampled(
    film: ShotList,
    entry: ShotEntry,
    folder: ModelFolder,
    prompt: str,
    size: tuple[int, int],
    frames: int,
    fps: Fraction,
) -> ClipRequest:
    defaults = folder.defaults

    def chosen(key: str) -> Any:
        own, common = getattr(entry, key), getattr(film, key)
        return own if own is not None else common if common is not None else getattr(defaults, key)

    return ClipRequest(
        prompt=prompt,
        negative_prompt=film.negative_prompt if entry.negative_prompt is None else entry.negative_prompt,
        width=size[0],
        height=size[1],
        frames=frames,
        fps=fps,
        steps=chosen("steps"),
        sampler=chosen("sampler"),
        guidance=chosen("guidance"),
        audio_guidance=chosen("audio_guidance"),
        shift=chosen("shift"),
        seed=film.seed if entry.seed is None else entry.seed,
        outputs="both" if film.sound else "video",
    )


def shot_keys(plan: FilmPlan, model_digest: str, digest: Any) -> dict[int, str]:
    """Of every shot what tells it from all others: a hash over its request, the bytes of its inputs, the model, and
    the key of the shot that it continues. digest: of a file."""
    keys: dict[int, str] = {}
    for number in plan.order:
        shot = plan.shots[number]
        values = shot.request.to_dict()
        inputs = {}
        for flag, path in shot.request.files():
            inputs[flag] = keys[shot.continues] if flag == "continues" and shot.continues is not None else digest(path)
        for source in values["sources"]:
            source["path"] = ""
        for reference in values["references"]:
            reference["path"] = ""
        told = {
            "version": KEY_VERSION,
            "request": values,
            "inputs": inputs,
            "model": model_digest,
            "made": [shot.made, shot.kept],
        }
        text = json.dumps(told, sort_keys=True, ensure_ascii=True)
        keys[number] = hashlib.sha256(text.encode()).hexdigest()
    return keys
