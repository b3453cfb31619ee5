"""Sounds that drive the picture: one of the whole of it, or several speakers, each in a region of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sky4.errors import RequestError

if TYPE_CHECKING:
    from sky4.pipeline.model_folder import ModelFolder
    from sky4.pipeline.request import Segments
    from sky4.pipeline.speakers import Speaker

SpeakerFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--speaker", metavar="NAME=SOUND", help="Speech of one who is seen at --mask NAME=... or --box NAME=..."
    ),
]
SpeakerMasks = Annotated[
    list[str] | None,
    typer.Option("--mask", metavar="NAME=PICTURE", help="Where a --speaker is: white in a picture over the first one."),
]
SpeakerBoxes = Annotated[
    list[str] | None,
    typer.Option("--box", metavar="NAME=X,Y,W,H", help="Where a --speaker is: a rectangle, in pixels or per cent."),
]
Anchors = Annotated[
    bool | None,
    typer.Option(
        "--anchors/--no-anchors",
        help="Key frames from --image first, then what lies between; default: where a sound drives a long clip.",
    ),
]


def speakers_of(files: list[str] | None, masks: list[str] | None, boxes: list[str] | None) -> tuple[Speaker, ...]:
    """The speakers, each with its sound and its region. RequestError for one that lacks either."""
    from sky4.media.masks import EditRegion, parse_box, parse_mask
    from sky4.pipeline.speakers import Speaker

    sounds = [(*_named("--speaker", text, "left=speech.wav"), text) for text in files or ()]
    names = [name for name, _, _ in sounds]
    drawn = [replace(parse_mask(_whole("--mask", text, names)), name=text.partition("=")[0]) for text in masks or ()]
    framed = [(_known("--box", text, names), parse_box(text.partition("=")[2])) for text in boxes or ()]
    speakers = []
    for name, path, text in sounds:
        own = tuple(mask for mask in drawn if mask.name == name), tuple(box for of, box in framed if of == name)
        if not any(own):
            raise RequestError(
                f"--speaker {text} is nowhere in the picture; add --mask {name}=PICTURE or --box {name}=X,Y,W,H"
            )
        if any(box.span for box in own[1]):
            raise RequestError(f"--box {name}: a speaker stays where it is; drop the range of seconds")
        region = EditRegion(tuple(replace(mask, name="") for mask in own[0]), own[1], fit=True)
        speakers.append(Speaker(name, Path(path).expanduser(), region))
    return tuple(speakers)


def windows_of_driven(frames: int, folder: ModelFolder, anchored: bool) -> Segments | None:
    """A sound may be of any length: what is longer than the model's own clips is made in windows that go on from one
    another, each hearing its part of it."""
    from sky4.pipeline.segments import choose_segments

    if frames <= folder.defaults.frames:
        return None
    return choose_segments("the clip", frames, frames, folder, anchored=anchored)


def _named(flag: str, text: str, example: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and name and value):
        raise RequestError(f"{flag} {text}: expected NAME=..., for example {example}")
    return name, value


def _known(flag: str, text: str, names: list[str]) -> str:
    name, _ = _named(flag, text, "left=mask.png" if flag == "--mask" else "left=0,0,50%,100%")
    if name not in names:
        known = f"choose of {', '.join(names)}" if names else "none is given"
        raise RequestError(f"{flag} {text}: '{name}' is no --speaker; {known}, or add --speaker {name}=SOUND")
    return name


def _whole(flag: str, text: str, names: list[str]) -> str:
    _known(flag, text, names)
    return text
