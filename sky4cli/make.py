"""What all commands that make clips share: checks before weights, the clips one by one, what is said of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from sky4.errors import RequestError
from sky4cli.console import Reporter
from sky4cli.planned import Engine, Planned
from sky4cli.startup import load_libraries

if TYPE_CHECKING:
    from sky4.media import WrittenClip
    from sky4.pipeline.clip import Clip
    from sky4.pipeline.model_folder import ModelFolder
    from sky4.pipeline.request import ClipRequest


Flags = ParamSpec("Flags")


def carried_out(plan: Callable[Flags, Planned | None]) -> Callable[Flags, None]:
    """The command that makes what `plan` makes of its flags; None: it has done everything already."""

    @wraps(plan)
    def command(*args: Flags.args, **flags: Flags.kwargs) -> None:
        planned = plan(*args, **flags)
        if planned is None:
            return
        paths = variation_paths(planned.out, planned.request.variations, planned.force)
        with Reporter(quiet=planned.quiet, as_json=planned.as_json) as reporter:
            make_clips(planned.request, planned.engine, paths, planned.force, reporter, planned.enhancer, planned.notes)

    return command


def make_clips(
    request: ClipRequest,
    engine: Engine,
    paths: list[Path],
    force: bool,
    reporter: Reporter,
    enhancer: Path | None = None,
    notes: Sequence[str] = (),
) -> list[Clip]:
    """Make the request's variations, one into each of `paths`. RequestError before any weights are loaded, where
    that is possible.

    notes: what the command has found worth saying, beside what is said of every request.
    """
    from sky4.pipeline.model_folder import ModelFolder

    began = time.monotonic()
    folder = ModelFolder.read(engine.model)
    for note in (*notes, *check_before(request, folder, paths)):
        reporter.note(f"note: {note}")
    if enhancer is not None:
        request = _enhanced(request, enhancer, reporter)
    reporter.stage("loading", 0, 1)
    load_libraries()
    from sky4.pipeline.components import Components  # torch and the libraries: seconds, so after every check
    from sky4.pipeline.finish import finish
    from sky4.pipeline.generate import generate_clips

    components = Components.load(engine.model, engine.device, engine.dtype, engine.attention_backend, engine.threads)
    clips, records = [], []
    for path, clip in zip(paths, generate_clips(request, components, reporter.stage), strict=True):
        finished = finish(clip, path, force, reporter.stage)
        took, began = time.monotonic() - began, time.monotonic()
        reporter.result(_line(finished.written, clip, took))
        for line in finished.lines():
            reporter.result(f"{finished.written.path}  {line}")
        clips.append(clip)
        records.append(finished.record(took))
    reporter.record({"clips": records})
    return clips


def check_before(request: ClipRequest, folder: ModelFolder, paths: list[Path]) -> list[str]:
    """Whatever can be said against the request and its outputs before weights are loaded, as RequestError.

    Returns what is worth saying of a request that can be served.
    """
    from sky4.pipeline.validate import check_sound, validate, warnings

    geometry = validate(request, folder)
    spare_inputs(paths, [path for _, path in request.files()])
    _check_even(paths, request)
    for path in paths:
        check_sound(request, path)
    return warnings(request, folder, geometry)


def variation_paths(out: Path, variations: int, force: bool) -> list[Path]:
    """clip.mp4 for one, clip-1.mp4, clip-2.mp4 ... for several. RequestError where one cannot be written."""
    from sky4.media import check_destination

    paths = [out]
    if variations > 1:
        paths = [out.with_name(f"{out.stem}-{number}{out.suffix}") for number in range(1, variations + 1)]
    for path in paths:
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


def _enhanced(request: ClipRequest, folder: Path, reporter: Reporter) -> ClipRequest:
    reporter.stage("rewriting the prompt", 0, 1)
    from sky4.prompting.enhance import LocalRewriter, enhance

    made = enhance(request.prompt, LocalRewriter(folder), request.names)
    reporter.note(f"prompt: {made.prompt}")
    return replace(request, prompt=made.prompt, enhanced_from=made.original)


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
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"the recipe does not tell what computed it ({error!r}); the file was edited") from error
