"""What all commands that make clips share: checks before weights, the clips one by one, what is said of each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sky4.errors import RequestError
from sky4cli.console import Reporter
from sky4cli.following import UNFOLLOWED, Following
from sky4cli.startup import load_libraries

if TYPE_CHECKING:
    from sky4.media import WrittenClip
    from sky4.pipeline.clip import Clip, Watch
    from sky4.pipeline.request import ClipRequest
    from sky4.pipeline.states import ResumeFolder


@dataclass(frozen=True)
class Engine:
    """Which weights compute where."""

    model: Path
    device: str = "auto"
    dtype: str = "auto"
    attention_backend: str = "auto"
    threads: int | None = None


def make_clips(
    request: ClipRequest,
    engine: Engine,
    paths: list[Path],
    force: bool,
    reporter: Reporter,
    enhancer: Path | None = None,
    notes: Sequence[str] = (),
    following: Following = UNFOLLOWED,
) -> list[Clip]:
    """Make the request's variations, one into each of `paths`; those that a resumed run has written are left out.
    RequestError before any weights are loaded, where that is possible; Interrupted where the user stops it.

    notes: what the command has found worth saying, beside what is said of every request.
    """
    from sky4.pipeline.model_folder import ModelFolder
    from sky4.pipeline.validate import check_sound, validate, warnings

    began = time.monotonic()
    folder = ModelFolder.read(engine.model)
    geometry = validate(request, folder)
    spare_inputs(paths, [path for _, path in request.files()])
    _check_even(paths, request)
    for path in paths:
        check_sound(request, path)
    for note in (*notes, *warnings(request, folder, geometry)):
        reporter.note(f"note: {note}")
    if enhancer is not None:
        request = _enhanced(request, enhancer, reporter, following)
    following.check(request, paths)
    reporter.stage("loading", 0, 1)
    load_libraries()
    try:
        return _made(request, engine, paths, force, reporter, following, began)
    except KeyboardInterrupt as error:
        raise following.interrupted() from error


def _made(
    request: ClipRequest,
    engine: Engine,
    paths: list[Path],
    force: bool,
    reporter: Reporter,
    following: Following,
    began: float,
) -> list[Clip]:
    from sky4.pipeline.components import Components  # torch and the libraries: seconds, so after every check
    from sky4.pipeline.generate import generate_clips
    from sky4.pipeline.lips import LipMeter
    from sky4.pipeline.preview_file import remove_preview
    from sky4.pipeline.seams import SeamMeter
    from sky4.pipeline.states import NoStates

    components = Components.load(engine.model, engine.device, engine.dtype, engine.attention_backend, engine.threads)
    states = following.states(request, components)
    previews = following.previews(request, paths, components, reporter)
    into, records = _unwritten(request, paths, states, force, reporter)
    clips = []
    seen = None if previews is None else previews.seen
    for clip in generate_clips(request, components, reporter.stage, states, seen):
        path = into[clip.request.seed]
        state = NoStates() if states is None else states.clip(clip.request)
        meter = SeamMeter(clip.seams, clip.given, clip.fps)
        lips = LipMeter(clip.fps)
        watch = meter.frames if request.audio is None else _both(meter.frames, lips.frames)
        with state.decoding(components.video_codec if clip.request.runs_video else None):
            written = clip.save(path, force=force, progress=reporter.stage, watch=watch)
        took, began = time.monotonic() - began, time.monotonic()
        reporter.result(_line(written, clip, took))
        record = _record(written, clip, took)
        if clip.request.canvas is not None:
            record["kept"] = _kept(written, clip, reporter)
        if clip.switch is not None:
            at = float(clip.switch / clip.fps)
            kind = clip.request.segments.transition if clip.request.segments is not None else "none"
            reporter.result(f"{written.path}  another shot from {at:.2f} s on: {kind}")
            record["switch"] = {"seconds": round(at, 6), "transition": kind}
        lag = None if request.audio is None else lips.lag(clip.audio(), clip.geometry.sample_rate)
        if lag is not None:
            reporter.result(f"{written.path}  {lag.line()}")
            record["lips"] = lag.values()
        seams = meter.report(written.path)
        if seams is not None:
            reporter.result(f"{written.path}  {seams.line()}")
            record.update(seams.values())
        state.finish({**record, "path": str(path.absolute())})
        if previews is not None:
            remove_preview(path)
        reporter.made(path, record)
        clips.append(clip)
        records.append(record)
    if states is not None:
        states.clear()
    reporter.record({"clips": records})
    return clips


def _both(one: Watch, other: Watch) -> Watch:
    """What is watched by two."""
    return lambda frames: other(one(frames))


def _unwritten(
    request: ClipRequest, paths: list[Path], states: ResumeFolder | None, force: bool, reporter: Reporter
) -> tuple[dict[int, Path], list[dict[str, Any]]]:
    """The paths of the variations that are still to be made, by seed, and the records of those that a run before this
    one has written. RequestError where a path cannot be written."""
    from sky4.media import check_destination

    into = {request.seed + index: path for index, path in enumerate(paths)}
    if states is None:
        return into, []
    records = []
    for seed, path in list(into.items()):
        before = states.clip(request.variation(seed - request.seed)).written
        if before is None:
            check_destination(path, force)
        else:
            reporter.note(f"'{path}' was written by the run before this one")
            records.append(before)
            del into[seed]
    return into, records


def variation_paths(out: Path, variations: int, force: bool, resume: bool = False) -> list[Path]:
    """clip.mp4 for one, clip-1.mp4, clip-2.mp4 ... for several. RequestError where one cannot be written.

    resume: what is there already may be the run's own: make_clips looks into its state.
    """
    from sky4.media import check_destination

    paths = [out]
    if variations > 1:
        paths = [out.with_name(f"{out.stem}-{number}{out.suffix}") for number in range(1, variations + 1)]
    for path in paths:
        if not (resume and path.exists()):
            check_destination(path, force)
    return paths


def spare_inputs(paths: list[Path], inputs: list[Path]) -> None:
    """RequestError where an output would replace what the clip is made from, --force or not."""
    for path in paths:
        for file in inputs:
            if path.exists() and (path.samefile(file) or path.resolve() in file.resolve().parents):
                held = "is" if path.samefile(file) else "holds"
                raise RequestError(
                    f"the output '{path}' {held} the input '{file}', which even --force does not replace; "
                    "choose another name with -o"
                )


def _check_even(paths: list[Path], request: ClipRequest) -> None:
    """RequestError for a canvas, as of a clip made again, that the format cannot hold: before anything is made."""
    from sky4.media import output_format

    canvas = request.canvas
    for path in paths:
        chosen = output_format(path)
        if canvas is not None and chosen.muxer and (canvas.width % 2 or canvas.height % 2):
            raise RequestError(
                f"the output '{path}' is {chosen.name}, which holds even sizes only, and the clip has "
                f"{canvas.width}x{canvas.height} pixels; name a folder of PNG pictures with -o"
            )


def _enhanced(request: ClipRequest, folder: Path, reporter: Reporter, following: Following) -> ClipRequest:
    """The request with the prompt rewritten: as in the run that is resumed, else anew."""
    from sky4.pipeline.resume import rewritten_prompt

    before = rewritten_prompt(following.resume_dir, request) if following.resume else None
    if before is not None:
        return replace(request, prompt=before, enhanced_from=request.prompt)
    reporter.stage("rewriting the prompt", 0, 1)
    from sky4.prompting.enhance import LocalRewriter, enhance

    made = enhance(request.prompt, LocalRewriter(folder), request.names)
    reporter.note(f"prompt: {made.prompt}")
    return replace(request, prompt=made.prompt, enhanced_from=made.original)


def _line(written: WrittenClip, clip: Clip, took: float) -> str:
    size = f"{written.width}x{written.height}  " if written.width else ""
    length = "" if clip.request.outputs == "still" else f"{float(written.seconds):.2f} s  "
    return f"{written.path}  {size}{length}seed {clip.request.seed}  took {took:.1f} s"


def _record(written: WrittenClip, clip: Clip, took: float) -> dict[str, Any]:
    return {
        "path": str(written.path),
        "width": written.width,
        "height": written.height,
        "frames": written.frames,
        "fps": str(clip.fps),
        "seconds": round(float(written.seconds), 6),
        "bytes": written.bytes,
        "seed": clip.request.seed,
        "prompt": clip.request.prompt,
        "latents": clip.checksums,
        "took_seconds": round(took, 3),
    }


def _kept(written: WrittenClip, clip: Clip, reporter: Reporter) -> dict[str, Any]:
    """How far what is kept of the sources was changed, before encoding and in the file, told and as JSON values."""
    from sky4.pipeline.composite import change_in_file

    reporter.stage("checking what is kept", 0, 1)
    before, after = clip.change, change_in_file(written.path, clip.request)
    told = "unchanged" if before.largest == 0 else f"{before.mean:.3f} off on average, {before.largest} at most"
    encoded = "unchanged" if after.largest == 0 else f"{after.mean:.2f} of 255 off on average, {after.largest} at most"
    reporter.result(f"{written.path}  what is kept: {told} before encoding, {encoded} in the file")
    return {
        "before_encoding": {"mean": before.mean, "largest": before.largest},
        "in_file": {"mean": after.mean, "largest": after.largest},
        "share": after.values / (written.frames * written.width * written.height * 3),
    }


def read_engine(recipe: dict[str, Any], model: Path | None, device: str | None) -> Engine:
    """What a recipe's clip was computed with, or what is said instead. RequestError for a recipe that does not tell."""
    try:
        computed = recipe["computed"]
        return Engine(
            model=model or Path(recipe["model"]["path"]),
            device=device or computed["device"],
            dtype=computed["dtype"],
            attention_backend=computed["attention_backend"],
            threads=int(computed["threads"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"the recipe does not tell what computed it ({error!r}); the file was edited") from error
