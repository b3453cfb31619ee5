"""What all commands that make clips share: checks before weights, the clips one by one, what is said of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from sky4.config import config_from_dict
from sky4.distributed.meeting import meeting
from sky4.errors import RequestError
from sky4.pipeline.economy import Economy
from sky4cli.check import warn_failed
from sky4cli.console import Reporter
from sky4cli.fitting import folder_of, planned_engine
from sky4cli.following import UNFOLLOWED, Following
from sky4cli.pipe import deliver
from sky4cli.planned import Engine, Planned
from sky4cli.startup import load_libraries

if TYPE_CHECKING:
    from sky4.distributed.ranks import Ranks
    from sky4.media import Provenance, WrittenClip
    from sky4.pipeline.clip import Clip
    from sky4.pipeline.components import Components
    from sky4.pipeline.model_folder import ModelFolder
    from sky4.pipeline.request import ClipRequest
    from sky4.pipeline.states import ResumeFolder


Flags = ParamSpec("Flags")


def carried_out(plan: Callable[Flags, Planned | None]) -> Callable[Flags, None]:
    """The command that makes what `plan` makes of its flags; None: it has done everything already."""

    @wraps(plan)
    def command(*args: Flags.args, **flags: Flags.kwargs) -> None:
        planned = plan(*args, **flags)
        if planned is None:
            return
        request, following = planned.request, planned.following
        replaces = planned.force or planned.engine.dry_run  # a dry run writes nothing, whatever lies there
        paths = variation_paths(planned.out, request.variations, replaces, following.resume)
        name = getattr(plan, "__name__", "")
        with Reporter(quiet=planned.quiet, as_json=planned.as_json, events=following.events, command=name) as reporter:
            make_clips(
                request,
                planned.engine,
                paths,
                planned.force,
                reporter,
                planned.enhancer,
                planned.notes,
                following,
                planned.provenance,
            )

    return command


def make_clips(
    request: ClipRequest,
    engine: Engine,
    paths: list[Path],
    force: bool,
    reporter: Reporter,
    enhancer: Path | None = None,
    notes: Sequence[str] = (),
    following: Following = UNFOLLOWED,
    provenance: Provenance | None = None,
) -> list[Clip]:
    """Make the request's variations, one into each of `paths`; those that a resumed run has written are left out.
    RequestError before any weights are loaded, where that is possible; Interrupted where the user stops it.

    notes: what the command has found worth saying, beside what is said of every request. provenance: where the recipe
    goes, and who signs; None is into the file. Nothing is made, and [] is returned, where the engine asks for a dry
    run.
    """
    from sky4.media import Provenance

    began = time.monotonic()
    provenance = provenance or Provenance()
    folder = folder_of(engine.model, engine.preset)
    for note in (
        *notes,
        *check_before(request, folder, paths, provenance, force or following.resume or engine.dry_run),
    ):
        reporter.note(f"note: {note}")
    if engine.dry_run or engine.memory is not None:
        engine = planned_engine(request, folder, engine, reporter)
        if engine.dry_run:
            return []
    if enhancer is not None:
        request = _enhanced(request, enhancer, reporter, following)
    following.check(request, paths)
    reporter.stage("loading", 0, 1)
    load_libraries()
    try:
        return _made(request, engine, paths, force, reporter, following, provenance, began)
    except KeyboardInterrupt as error:
        raise following.interrupted() from error


def _made(
    request: ClipRequest,
    engine: Engine,
    paths: list[Path],
    force: bool,
    reporter: Reporter,
    following: Following,
    provenance: Provenance,
    began: float,
) -> list[Clip]:
    """Of several processes all make the clips' latents, and the first one alone decodes and writes them."""
    from sky4.distributed.ranks import joined  # torch and the libraries: seconds, so after every check
    from sky4.pipeline.finish import finish
    from sky4.pipeline.generate import generate_clips
    from sky4.pipeline.preview_file import remove_preview
    from sky4.pipeline.states import NoStates

    with joined() as ranks:
        components = _components(request, engine, ranks)
        states = following.states(request, components)
        if not ranks.first:
            return list(ranks.in_step(generate_clips(request, components, reporter.stage, states)))
        previews = following.previews(request, paths, components, reporter)
        into, records = _unwritten(request, paths, states, force, reporter)
        clips = []
        seen = None if previews is None else previews.seen
        for clip in ranks.in_step(generate_clips(request, components, reporter.stage, states, seen)):
            path = into[clip.request.seed]
            state = NoStates() if states is None else states.clip(clip.request)
            with state.decoding(components.video_codec if clip.request.runs_video else None):
                finished = finish(clip, path, force, reporter.stage, provenance)
            took, began = time.monotonic() - began, time.monotonic()
            reporter.result(_line(finished.written, clip, took))
            for line in finished.lines():
                reporter.result(f"{finished.written.path}  {line}")
            record = finished.record(took)
            reporter.stage("checking the file", 0, 1)
            record["check"] = warn_failed(finished.written.path, reporter, () if provenance.inside else ("recipe",))
            deliver(finished.written.path)
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


def _components(request: ClipRequest, engine: Engine, ranks: Ranks) -> Components:
    """The model, on all processes the same. RequestError where one of them was given something else."""
    from sky4.pipeline.clip import work_digest
    from sky4.pipeline.components import Components

    components = Components.load(
        engine.model, engine.device, engine.dtype, engine.attention_backend, engine.threads, engine.economy, ranks
    )
    if ranks.world > 1:
        ranks.require_same(work_digest(request, components), "request, model, input file or sky4")
    return components


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


def check_before(
    request: ClipRequest,
    folder: ModelFolder,
    paths: list[Path],
    provenance: Provenance | None = None,
    force: bool = False,
) -> list[str]:
    """Whatever can be said against the request and its outputs before weights are loaded, as RequestError.

    Returns what is worth saying of a request that can be served.
    """
    from sky4.media import check_provenance
    from sky4.pipeline.validate import check_sound, validate, warnings

    geometry = validate(request, folder)
    spare_inputs(paths, [path for _, path in request.files()])
    _check_even(paths, request)
    for path in paths:
        check_sound(request, path)
        if provenance is not None:
            check_provenance(path, provenance, force)
    return warnings(request, folder, geometry)


def make_latents(request: ClipRequest, engine: Engine, reporter: Reporter) -> Clip:
    """Make one clip as far as its latents, with the checks of `make_clips`; nothing is decoded or written."""
    from sky4.pipeline.model_folder import ModelFolder
    from sky4.pipeline.validate import validate

    validate(request, ModelFolder.read(engine.model))
    reporter.stage("loading", 0, 1)
    load_libraries()
    from sky4.distributed.ranks import joined
    from sky4.pipeline.generate import generate_clip

    with joined() as ranks:
        return generate_clip(request, _components(request, engine, ranks), reporter.stage)


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

    def rewritten() -> str:
        from sky4.prompting.enhance import LocalRewriter, enhance

        return enhance(request.prompt, LocalRewriter(folder), request.names).prompt

    met = meeting()
    prompt = rewritten() if met is None else met.told("enhanced prompt", rewritten)
    reporter.note(f"prompt: {prompt}")
    return replace(request, prompt=prompt, enhanced_from=request.prompt)


def _line(written: WrittenClip, clip: Clip, took: float) -> str:
    size = f"{written.width}x{written.height}  " if written.width else ""
    length = "" if clip.request.outputs == "still" else f"{float(written.seconds):.2f} s  "
    return f"{written.path}  {size}{length}seed {clip.request.seed}  took {took:.1f} s"


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
            economy=config_from_dict(Economy, computed.get("economy", {}), "economy"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"the recipe does not tell what computed it ({error!r}); the file was edited") from error
