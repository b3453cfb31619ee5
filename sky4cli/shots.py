"""`sky4 shots`: where a film goes from one shot to the next, and how."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sky4.errors import RequestError
from sky4cli.options import Json, Quiet

if TYPE_CHECKING:
    from sky4.shots.cutting import Shot
    from sky4.shots.detector import Transition

EXAMPLES = (
    "sky4 shots clip.mp4",
    "sky4 shots clip.mp4 --json",
)
HEAD = "shot      from        to  seconds  then"
EVERY = 32  # frames between two words of progress


def shots(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="The film.")],
    detector: Annotated[
        Path | None, typer.Option("--detector", metavar="FOLDER", help="Of `sky4 train shot-detector`; default: ours.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tell a film's shots: their times, how each gives way to the next, and what the two show."""
    from sky4.prompting.references import kind_of

    if video.is_file() and kind_of(video) == "image":
        raise RequestError(f"'{video}' is a picture, which has no shots; give a video file")
    from sky4.shots.cutting import FilmShots
    from sky4.shots.network import BUNDLED, ShotNetwork
    from sky4cli.console import Reporter

    with Reporter(quiet=quiet, as_json=as_json) as reporter:
        film = FilmShots(video, ShotNetwork.load(detector or BUNDLED))

        def watch(done: int) -> None:
            if done % EVERY == 0:
                reporter.stage("watching", done, max(done, film.expected))

        film.watch = watch
        found = []
        reporter.result(HEAD)
        for shot in film:
            reporter.result(line(shot))
            found.append(shot.values())
        reporter.record(
            {"path": str(video), "fps": str(film.fps), "frames": film.frames, "seconds": float(film.frames / film.fps)}
            | {"shots": found}
        )


def line(shot: Shot) -> str:
    """One row of the table."""
    then = "" if shot.then is None else said(shot.then)
    lasts = float(shot.ends - shot.begins)
    return f"{shot.number:4d}  {clock(shot.begins)}  {clock(shot.ends)}  {lasts:7.3f}  {then}".rstrip()


def said(found: Transition) -> str:
    """ "dissolve of 0.50 s, cut-in (98 %)"."""
    lasts = float(found.end - found.begin)
    kind = found.optical if found.optical == "cut" else f"{found.optical} of {lasts:.2f} s"
    return kind + ("" if found.content is None else f", {found.content} ({100 * found.content_confidence:.0f} %)")


def clock(seconds: Fraction) -> str:
    """1:02.500, of an hour and more 1:00:02.500; eight characters at least."""
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    hours, minutes = divmod(minutes, 60)
    told = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{told}:{rest / 1000:06.3f}".rjust(8)
