"""--refine and --keyframes: what is typed to what a request is refined to. No torch, no weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sky4.errors import RequestError
from sky4cli.options import parse_number, parse_size, parse_start

if TYPE_CHECKING:
    from sky4.pipeline.model_folder import ModelFolder
    from sky4.pipeline.request import ClipRequest

RefineTo = Annotated[
    str | None,
    typer.Option(
        "--refine",
        metavar="TO[@FPS]",
        help="Refine what is made to WxH or to N times its size, at its rate or twice that: 128x128, 2x@32.",
    ),
]
KeyframesAt = Annotated[
    str | None,
    typer.Option(
        "--keyframes",
        metavar="N|S,S",
        help="With --refine: make N frames, evenly spread, or those at these seconds, at that size at once.",
    ),
]


@dataclass(frozen=True)
class Target:
    """A size in pixels, and how many frames for each; None: twice as many where there is something between them."""

    width: int
    height: int
    rate: Literal[1, 2] | None


def with_refinement(
    request: ClipRequest, folder: ModelFolder, target: str | None, keyframes: str | None
) -> ClipRequest:
    """The request with what --refine and --keyframes ask for. RequestError for what cannot be read or be."""
    if target is None:
        if keyframes is not None:
            raise RequestError(f"--keyframes {keyframes} are made at the refined size; say it with --refine 2x")
        return request
    from sky4.pipeline.refinement import Refinement

    entry = folder.refiner()
    size, at, fps = target.partition("@")
    width, height = size_of("--refine", size, request.width, request.height, folder.cell)
    refine = Refinement(
        width, height, entry.steps, rate_of("--refine", fps, request.fps) if at else _usual_rate(request)
    )
    if keyframes is not None:
        refine = replace(refine, keyframes=latent_frames_of(keyframes, request, folder))
    return replace(request, refinement=refine)


def size_of(flag: str, text: str, width: int, height: int, cell: int) -> tuple[int, int]:
    """'1280x720', or '2x' and '1.5x' of width x height in whole cells."""
    if text.endswith("x") and text.count("x") == 1:
        factor = parse_number(flag, text[:-1], "2x or 1.5x")
        if factor <= 1:
            raise RequestError(f"{flag} {text}: refining enlarges; ask for more than 1x, for example 2x")
        return tuple(max(1, round(side * factor / cell)) * cell for side in (width, height))  # type: ignore[return-value]
    try:
        return parse_size(text)
    except RequestError:
        raise RequestError(f"{flag} {text}: expected WIDTHxHEIGHT in pixels, or a factor such as 2x") from None


def rate_of(flag: str, text: str, fps: Fraction) -> Literal[1, 2]:
    """Frames of the refined clip for each of a clip at fps, from the rate asked for."""
    wanted = parse_number(flag, text, "32 or 60000/1001")
    if wanted == fps:
        return 1
    if wanted == 2 * fps:
        return 2
    raise RequestError(f"{flag} {text}: the refiner keeps the rate of {fps} or doubles it; ask for {fps} or {2 * fps}")


def _usual_rate(request: ClipRequest) -> Literal[1, 2]:
    return 2 if request.frames > 1 and request.canvas is None and request.segments is None else 1


def latent_frames_of(text: str, request: ClipRequest, folder: ModelFolder) -> tuple[int, ...]:
    """The latent frames of what is made at once that a count, or seconds with commas between, name."""
    step = folder.temporal_compression
    made = request.frames if request.segments is None else request.segments.frames
    last = -(-(made - 1) // step)
    if text.isdecimal():
        count = int(text)
        if not 1 <= count <= last + 1:
            raise RequestError(f"--keyframes {text}: the clip has {last + 1} latent frames; ask for 1 to {last + 1}")
        return tuple(round(index * last / max(1, count - 1)) for index in range(count))
    found = set()
    for part in text.split(","):
        second = parse_start("--keyframes", part.strip(), "3, or 0,2.5")
        frame = round(second * request.fps)
        if frame >= made:
            raise RequestError(
                f"--keyframes {part.strip()}: what is made at once lasts {float(made / request.fps):g} s; name earlier "
                "moments"
            )
        found.add(-(-frame // step))
    return tuple(sorted(found))
