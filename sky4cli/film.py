"""`sky4 film`: a shot list to a film; only shots that changed are made."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sky4.errors import RequestError
from sky4cli.check import warn_failed
from sky4cli.options import Backend, Device, Dtype, Force, Json, Model, Quiet

if TYPE_CHECKING:
    from sky4.film.plan import FilmPlan
    from sky4.film.shots import ShotFiles
    from sky4cli.console import Reporter

EXAMPLES = (
    "sky4 film shots.yaml -o film.mp4",
    "sky4 film shots.yaml -o again.mkv --work film.shots",
)


def film(
    shots: Annotated[
        Path, typer.Argument(metavar="SHOTS", help="A YAML file of shots: prompt, seconds, transition ...")
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="PATH", help="Output: .mp4 .mov .mkv .webm; .edl .srt .png beside it."),
    ] = Path("film.mp4"),
    work: Annotated[
        Path | None,
        typer.Option("--work", metavar="FOLDER", help="Where the shots' own files are kept; default: film.shots."),
    ] = None,
    model: Model = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    attention_backend: Backend = "auto",
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make the film of a shot list; shots that were made before, and have not changed, are taken as they are."""
    from sky4.film.plan import plan_film
    from sky4.pipeline.model_folder import BUNDLED, ModelFolder
    from sky4cli.console import Reporter

    folder = ModelFolder.read(model or BUNDLED)
    plan = plan_film(shots, folder)
    beside = exports_of(out, plan)
    place = work or out.with_name(f"{out.stem}.shots")
    check_outputs(out, list(beside.values()), place, shots, plan, force)
    with Reporter(quiet=quiet, as_json=as_json) as reporter:
        files = shot_files(plan, place, folder.path)
        made = make_missing(files, folder.path, device, dtype, attention_backend, folder.sample_rate, reporter)
        write_film(files, folder.sample_rate, out, beside, made, force, reporter)


def exports_of(out: Path, plan: FilmPlan) -> dict[str, Path]:
    """What is written beside the film: always an edit list and a contact sheet, subtitles where something is said."""
    from sky4.film.exports import subtitles

    suffixes = {"edl": ".edl", "sheet": ".png"} | ({"subtitles": ".srt"} if subtitles(plan) else {})
    return {name: out.with_name(f"{out.stem}{suffix}") for name, suffix in suffixes.items()}


def check_outputs(out: Path, beside: list[Path], place: Path, shots: Path, plan: FilmPlan, force: bool) -> None:
    """RequestError where the film or what lies beside it cannot be written, or would replace what it is made from."""
    from sky4.media import check_destination
    from sky4cli.make import spare_inputs

    chosen = check_destination(out, force)
    if not chosen.muxer or chosen.video_codec is None:
        raise RequestError(f"the output '{out}' is {chosen.name}; a film is .mp4, .mov, .mkv or .webm")
    if place.exists() and not place.is_dir():
        raise RequestError(f"--work {place} is no folder; name one for the shots' files")
    for path in beside:
        if path.exists() and not force:
            raise RequestError(f"'{path}', which goes beside the film, exists already; use --force to replace it")
        if path.is_dir():
            raise RequestError(f"'{path}', which goes beside the film, is a folder; choose another name with -o")
    inputs = [path for shot in plan.shots for flag, path in shot.request.files() if flag != "continues"]
    spare_inputs([out, *beside], [shots, *inputs])


def shot_files(plan: FilmPlan, place: Path, model: Path) -> ShotFiles:
    """Where the shots lie, by what they are made from."""
    from sky4.film.plan import shot_keys
    from sky4.film.shots import ShotFiles
    from sky4.pipeline.digest import file_digest, weights_digest

    return ShotFiles(place, plan, shot_keys(plan, weights_digest(model), file_digest))


def make_missing(
    files: ShotFiles, model: Path, device: str, dtype: str, backend: str, rate: int, reporter: Reporter
) -> list[int]:
    """Make the shots that are not there; returns their numbers. Without any, no weights are loaded."""
    from sky4.film.shots import make_shot, unused
    from sky4cli.startup import load_libraries

    missing = files.missing()
    for shot in files.plan.shots:
        if shot.number not in missing:
            reporter.result(f"{files.path(shot.number)}  {shot.name}  unchanged")
    if old := unused(files):
        reporter.note(f"note: {len(old)} files in '{files.folder}' are of shots as they were, and are kept")
    if not missing:
        return []
    reporter.stage("loading", 0, 1)
    load_libraries()
    from sky4.pipeline.components import Components

    components = Components.load(model, device, dtype, backend)
    for done, number in enumerate(missing):
        shot, began = files.plan.shots[number], time.monotonic()

        def stage(name: str, at: int, total: int, done: int = done) -> None:
            reporter.stage(f"{done + 1}/{len(missing)} {name}", at, total)

        make_shot(shot, files, components, rate, stage)
        lasts, took = float(shot.frames / files.plan.fps), time.monotonic() - began
        reporter.result(
            f"{files.path(number)}  {shot.name}  {lasts:.2f} s  seed {shot.request.seed}  took {took:.1f} s"
        )
    return missing


def write_film(
    files: ShotFiles,
    rate: int,
    out: Path,
    beside: dict[str, Path],
    made: list[int],
    force: bool,
    reporter: Reporter,
) -> None:
    """Join the shots into `out`, and write what goes beside it."""
    from sky4.film.exports import ContactSheet, edl, subtitles
    from sky4.film.join import FilmReel
    from sky4.media import write_clip
    from sky4.media.destination import write_whole

    plan = files.plan
    reel, sheet = FilmReel(plan, files, rate), ContactSheet(plan)

    def told() -> Any:
        for done, chunk in enumerate(sheet.frames(reel.frames()), start=1):
            yield chunk
            reporter.stage("joining", done, plan.frames)

    written = write_clip(out, told(), reel.wave(), fps=plan.fps, recipe=recipe(files), sample_rate=rate, force=force)
    texts = {"edl": edl(plan), "subtitles": subtitles(plan)}
    for name, path in beside.items():
        if name == "sheet":
            write_whole(path, lambda file: sheet.picture().save(file, format="PNG"))
        else:
            write_whole(path, partial(Path.write_text, data=texts[name], encoding="utf-8"))
    reporter.stage("checking the file", 0, 1)
    check = warn_failed(written.path, reporter)
    lasts = f"{written.frames} frames, {float(written.seconds):.2f} s"
    reporter.result(f"{written.path}  {written.width}x{written.height}  {lasts}  {len(plan.shots)} shots")
    reporter.result("  ".join(str(path) for path in beside.values()))
    shown = [values_of(files, number, number in made) for number in range(len(plan.shots))]
    reporter.record(
        {
            "path": str(written.path),
            "width": written.width,
            "height": written.height,
            "frames": written.frames,
            "fps": str(plan.fps),
            "seconds": round(float(written.seconds), 6),
            "samples": reel.sample(plan.frames) if plan.sound else 0,
            "shots": shown,
            "check": check,
            **{name: str(path) for name, path in beside.items()},
        }
    )


def values_of(files: ShotFiles, number: int, made: bool) -> dict[str, Any]:
    """One shot, for programs."""
    shot = files.plan.shots[number]
    return {
        "name": shot.name,
        "path": str(files.path(number)),
        "made": made,
        "begin": round(float(shot.begins / files.plan.fps), 6),
        "frames": shot.frames,
        "transition": shot.entry.transition,
        "prompt": shot.request.prompt,
        "seed": shot.request.seed,
    }


def recipe(files: ShotFiles) -> dict[str, Any]:
    """How the film was made: its shots, each with what tells it from others. Each shot's file holds its own recipe."""
    from sky4 import __version__

    shots = [
        {
            "name": shot.name,
            "key": files.keys[shot.number],
            "frames": shot.frames,
            "transition": shot.entry.transition,
            "transition_frames": shot.joined_frames,
            "prompt": shot.request.prompt,
            "seed": shot.request.seed,
        }
        for shot in files.plan.shots
    ]
    return {
        "version": 1,
        "sky4": __version__,
        "clip": {"frames": files.plan.frames, "fps": str(files.plan.fps)},
        "film": {"title": files.plan.title, "fps": str(files.plan.fps), "shots": shots},
    }
