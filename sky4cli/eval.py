"""`sky4 eval`: how good a model is. Clips are made for held-out prompts and measured; a table, a JSON, a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from sky4.errors import RequestError
from sky4cli.eval_report import (
    CLIPS,
    RESULTS,
    SHEET,
    check_folder,
    keeper,
    say_long,
    say_measures,
    say_refiner,
    say_tasks,
    settings,
    write_results,
)
from sky4cli.options import (
    AudioGuidance,
    Backend,
    Device,
    Dtype,
    Force,
    Guidance,
    Json,
    Model,
    Quiet,
    Sampler,
    Shift,
    Size,
    Steps,
    parse_size,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from sky4.pipeline.components import Components
    from sky4.pipeline.model_folder import ModelFolder
    from sky4.pipeline.request import ClipRequest
    from sky4.shots.kinds import Content
    from sky4cli.console import Reporter

eval_app = typer.Typer(
    name="eval", help="Measure what a model makes.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)

Suite = Literal["prompts", "tasks", "long", "refiner"]
FLAGS = {  # that belong to some suites only
    "prompts": ("--prompts", "--count", "--first-frames"),
    "tasks": ("--cases", "--task"),
    "long": ("--cases", "--task"),
    "refiner": ("--cases",),
}
CASES = 16  # of each task
AVATAR = "avatar"  # the task of --suite long beside the transitions; one head for each EACH cases
EACH = 8
TASK_FRAMES = 33  # of a clip: families of takes are laid out for so many
REFINED_FRAMES = 17  # of a clip before it is refined: a second of the world, which repeats itself


@eval_app.callback()
def _root() -> None:
    """Measure what a model makes."""


@dataclass(frozen=True)
class _Job:
    """What both suites need: the model and how it computes, the sampling, and where results go."""

    folder: ModelFolder
    request: ClipRequest
    of: Literal["renders", "codecs", "model"]
    device: Device
    dtype: Dtype
    backend: Backend
    clips: Path | None  # the folder in which clips are kept
    force: bool
    reporter: Reporter

    def components(self) -> Components:
        from sky4.pipeline.components import Components

        return Components.load(self.folder.path, self.device, self.dtype, self.backend)


@eval_app.command("world")
def world(
    suite: Annotated[
        Suite,
        typer.Option(
            "--suite",
            help="Clips from prompts alone, every task of edits and references, shots behind others, or the refiner.",
        ),
    ] = "prompts",
    prompts: Annotated[
        Literal["heldout", "train"] | None,
        typer.Option("--prompts", help="Pairs of shape and colour never trained (default: heldout) or often."),
    ] = None,
    count: Annotated[
        int | None, typer.Option("-n", "--count", metavar="N", help="How many prompts; default: 64.")
    ] = None,
    cases: Annotated[
        int | None, typer.Option("--cases", metavar="N", help=f"How many cases of each task; default: {CASES}.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", metavar="NAME", help="Only this task. Repeatable; default: all.")
    ] = None,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FOLDER", help=f"Folder of {RESULTS} and {SHEET}.")
    ] = Path("eval-world"),
    ceiling: Annotated[
        bool, typer.Option("--ceiling", help="Measure the scenes as rendered: what the detectors can reach.")
    ] = False,
    codec: Annotated[
        bool, typer.Option("--codec", help="Measure renders through both codecs: what a perfect model would reach.")
    ] = False,
    first_frames: Annotated[
        int | None,
        typer.Option("--first-frames", metavar="N", help="So many clips more, each from its scene's first frame."),
    ] = None,
    save_clips: Annotated[bool, typer.Option("--save-clips", help=f"Keep every clip as an MP4 in {CLIPS}/.")] = False,
    size: Size = None,
    frames: Annotated[int | None, typer.Option("--frames", metavar="N", help="Length of the clips.")] = None,
    steps: Steps = None,
    sampler: Sampler = None,
    guidance: Guidance = None,
    audio_guidance: AudioGuidance = None,
    shift: Shift = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the first clip's noise; the next ones count up.")] = 0,
    model: Model = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    attention_backend: Backend = "auto",
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make clips for prompts, or for tasks, of the procedural world, and measure whether they are what was asked."""
    from sky4.pipeline.model_folder import BUNDLED, ModelFolder
    from sky4cli.console import Reporter
    from sky4cli.requests import Sampling, Shape, request_of

    values = {"--prompts": prompts, "--count": count, "--first-frames": first_frames, "--cases": cases, "--task": task}
    for flag, value in values.items():
        if value not in (None, []) and flag not in FLAGS[suite]:
            raise RequestError(f"{flag} does not belong to --suite {suite}; drop it, or choose another suite")
    if suite == "refiner":
        for given, name in ((ceiling, "--ceiling"), (codec, "--codec"), (save_clips, "--save-clips")):
            if given:
                raise RequestError(f"{name} does not belong to --suite refiner, which measures all at once; drop it")
    if ceiling and codec:
        raise RequestError("--ceiling and --codec are both given; run them one after the other")
    if save_clips and (ceiling or codec):
        raise RequestError(f"--save-clips keeps what a model makes; drop --{'ceiling' if ceiling else 'codec'}")
    asked = 64 if count is None else count
    starts = min(4, asked) if first_frames is None else first_frames
    _check_counts(asked, starts, CASES if cases is None else cases)
    names = [] if suite == "prompts" else _tasks(task or [], suite)
    check_folder(out, force)
    folder = ModelFolder.read(model or BUNDLED)
    defaults = folder.defaults
    width, height = parse_size(size) if size is not None else (defaults.width, defaults.height)
    if width != height:
        raise RequestError(f"--size {width}x{height}: the world is square; ask for {height}x{height}")
    most = {"prompts": defaults.frames, "refiner": REFINED_FRAMES}.get(suite, TASK_FRAMES)
    usual = min(most, defaults.frames)
    shape = Shape(width, height, usual if frames is None else frames, defaults.fps)
    sampling = Sampling(steps, sampler, guidance, audio_guidance, shift, seed)
    request = request_of("(each of the prompts)", shape, sampling, defaults)
    folder.geometry(width, height, request.frames, request.fps)
    if suite == "refiner":
        folder.refiner("--suite refiner")
        _check_groups(request.frames, folder.temporal_compression)
    with Reporter(quiet=quiet, as_json=as_json) as reporter:
        reporter.stage("loading", 0, 1)
        of: Literal["renders", "codecs", "model"] = "renders" if ceiling else "codecs" if codec else "model"
        kept = out if save_clips else None
        job = _Job(folder, request, of, device, dtype, attention_backend, kept, force, reporter)
        if suite == "refiner":
            results, sheet, say = _measure_refiner(job, CASES if cases is None else cases, steps, out)
        elif suite == "prompts":
            results, sheet, say = _measure_prompts(job, prompts or "heldout", asked, starts)
        elif suite == "tasks":
            results, sheet, say = _measure_tasks(job, names, CASES if cases is None else cases)
        else:
            results, sheet, say = _measure_long(job, names, CASES if cases is None else cases)
        write_results(out, results, sheet)
    if not as_json:
        say()
    reporter.result(f"{out / RESULTS}  {out / SHEET}")
    told = {key: value for key, value in results.items() if key not in ("clips", "cases")}
    reporter.record({**told, "results": str(out / RESULTS), "contact_sheet": str(out / SHEET)})


def _check_counts(count: int, starts: int, cases: int) -> None:
    if not 1 <= count <= 100_000:
        raise RequestError(f"--count {count} is outside 1 to 100000; 64 is usual")
    if not 0 <= starts <= count:
        raise RequestError(f"--first-frames {starts} is outside 0 to the --count of {count}; 4 is usual")
    if not 1 <= cases <= 10_000:
        raise RequestError(f"--cases {cases} is outside 1 to 10000; {CASES} is usual")


def _check_groups(frames: int, step: int) -> None:
    """RequestError for a clip that is not what the codec makes, or too short to be refined in time."""
    nearest = max(step + 1, round((frames - 1) / step) * step + 1)
    if frames != nearest:
        raise RequestError(f"--frames {frames} is not {step}n + 1 and at least {step + 1}; nearest: {nearest}")


def _tasks(names: list[str], suite: Suite) -> list[str]:
    """The tasks of these names, all of the suite for none. RequestError for an unknown one."""
    if suite == "long":
        from sky4.shots.kinds import CONTENTS

        known = [*(str(kind) for kind in CONTENTS), AVATAR]
    else:
        from sky4.world.tasks import TITLES

        known = list(TITLES)
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise RequestError(f"--task {unknown} is unknown; choose of {', '.join(known)}")
    return [name for name in known if name in names or not names]


Results = tuple[dict[str, Any], "Image", Callable[[], None]]


def _measure_prompts(job: _Job, prompts: Literal["heldout", "train"], count: int, starts: int) -> Results:
    from sky4.evaluation.world import ClipSize, evaluate_codecs, evaluate_model, evaluate_renders
    from sky4.world.evaluate import world_prompts

    asked, request, say = world_prompts(count, prompts), job.request, job.reporter.stage
    size = ClipSize(request.width, request.frames, request.fps, job.folder.sample_rate)
    if job.of == "renders":
        result = evaluate_renders(asked, size, say)
    elif job.of == "codecs":
        result = evaluate_codecs(asked, size, job.components(), say)
    else:
        keep = None if job.clips is None else keeper(job.clips, job.force)
        result = evaluate_model(asked, request, job.components(), say, first_frames=starts, keep=keep)
    told = settings(job.of, {"prompts": prompts}, request, job.folder.manifest.name)
    return {**told, **result.to_dict()}, result.sheet(), lambda: say_measures(told, result)


def _measure_tasks(job: _Job, names: list[str], cases: int) -> Results:
    from sky4.evaluation.tasks import codec_maker, evaluate_tasks, model_maker, render_maker

    components, rate = None if job.of == "renders" else job.components(), job.folder.sample_rate
    if components is None:
        make = render_maker(rate)
    elif job.of == "codecs":
        make = codec_maker(components)
    else:
        make = model_maker(components, None if job.clips is None else keeper(job.clips, job.force))
    result = evaluate_tasks(names, cases, job.request, make, rate, components, job.reporter.stage)
    told = settings(job.of, {"suite": "tasks", "cases_each": cases}, job.request, job.folder.manifest.name)
    return {**told, **result.to_dict()}, result.sheet(), lambda: say_tasks(told, result.tasks, result.rows)


def _measure_refiner(job: _Job, cases: int, steps: int | None, out: Path) -> Results:
    from sky4.evaluation.refiner import evaluate_refiner

    request = job.request
    result = evaluate_refiner(job.components(), cases, request, steps, out, job.reporter.stage)
    told = {"measured": "refiner", "suite": "refiner", "cases_each": cases, "model": job.folder.manifest.name}
    told |= {"size": request.width, "frames": request.frames, "fps": str(request.fps)}
    return {**told, **result.to_dict()}, result.sheet(), lambda: say_refiner(told, result)


def _measure_long(job: _Job, names: list[str], cases: int) -> Results:
    from sky4.evaluation.avatars import avatar_maker, coded_maker, evaluate_avatars, truth_maker
    from sky4.evaluation.long import codec_maker, evaluate_long, guess_maker, long_case, model_maker, render_maker
    from sky4.shots.network import ShotNetwork

    guess = None
    if job.of == "renders":
        make, talk = render_maker(), truth_maker()
    else:
        components = job.components()
        guess = guess_maker(components)
        if job.of == "codecs":
            make, talk = codec_maker(components), coded_maker(components)
        else:
            keep = None if job.clips is None else keeper(job.clips, job.force)
            make, talk = model_maker(components, keep), avatar_maker(components)
    kinds, heads = cast("list[Content]", [name for name in names if name != AVATAR]), -(-cases // EACH)
    say, network = job.reporter.stage, ShotNetwork.load()
    try:
        for kind in kinds[:1]:
            long_case(kind, 0, job.request)  # before minutes go into the heads
    except ValueError as error:
        raise RequestError(f"--frames {job.request.frames} is too short for two shots: {error}") from error
    avatars = evaluate_avatars(heads if AVATAR in names else 0, job.request, talk, job.folder.sample_rate, say)
    result = evaluate_long(kinds, cases, job.request, make, network, say, avatars, guess)
    told = settings(job.of, {"suite": "long", "cases_each": cases}, job.request, job.folder.manifest.name)
    return {**told, **result.to_dict()}, result.sheet(), lambda: say_long(told, result)
