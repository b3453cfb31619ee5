"""`sky4 bench`: how fast kernels, stages and generations are, beside others, with their error; a table or a JSON."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sky4.errors import RequestError
from sky4cli.calibrate import calibrate
from sky4cli.options import Backend, Device, Dtype, Model, Quiet, Sampler, Size, Steps, parse_size

if TYPE_CHECKING:
    from sky4.pipeline.model_folder import ModelFolder
    from sky4.pipeline.request import ClipRequest
    from sky4cli.bench_session import BenchSession

bench_app = typer.Typer(
    name="bench",
    help="Measure speed and error of kernels, stages and generations.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)

PROMPT = "a red circle bounces on the ground, moving right <sfx>a low drum at each bounce</sfx>"

Budget = Annotated[
    float, typer.Option("--budget", metavar="SECONDS", help="What does not fit is left out, with the reason.")
]
Seed = Annotated[int, typer.Option("--seed", help="Of the random inputs.")]
Threads = Annotated[int | None, typer.Option("--threads", metavar="N", help="CPU threads; one per core by default.")]
OutFile = Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write the JSON here as well.")]
Force = Annotated[bool, typer.Option("--force", help="Replace existing files.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout instead of the table.")]
Baseline = Annotated[
    Path | None, typer.Option("--baseline", metavar="FILE", help="Compare with this earlier --out of the same device.")
]
FailOver = Annotated[
    str | None,
    typer.Option("--fail-over", metavar="P%", help="Exit with 1 where ours is slower than --baseline by more."),
]
Profile = Annotated[
    Path | None, typer.Option("--profile", metavar="FILE", help="Write a Chrome trace with one call of each row.")
]
Prompt = Annotated[str, typer.Option("--prompt", metavar="TEXT", help="What is generated.")]
Frames = Annotated[int | None, typer.Option("--frames", metavar="N", help="Length of the clip.")]
Rounds = Annotated[int, typer.Option("--rounds", metavar="N", help="Generations of each, in turns, after a warm-up.")]


@bench_app.callback()
def _root() -> None:
    """Measure speed and error of kernels, stages and generations."""


@bench_app.command("kernels")
def kernels(
    context: typer.Context,
    shape: Annotated[
        list[str] | None,
        typer.Option("--shape", metavar="SHAPE", help="A name or sizes, see the README; repeatable."),
    ] = None,
    kernel: Annotated[
        list[str] | None, typer.Option("--kernel", metavar="NAME", help="Only this one; repeatable.")
    ] = None,
    backward: Annotated[bool, typer.Option("--backward", help="Measure the gradients of attention too.")] = False,
    compiled: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile", help="FlexAttention for all cases or none; by default the large ones on CUDA."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw the roofline: .png or .svg.")
    ] = None,
    ptxas: Annotated[
        bool, typer.Option("--ptxas", help="Print registers, spills and shared memory of the CUDA build; run nothing.")
    ] = False,
    budget: Budget = 120.0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    attention_backend: Backend = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    out: OutFile = None,
    force: Force = False,
    as_json: Json = False,
    baseline: Baseline = None,
    fail_over: FailOver = None,
    profile: Profile = None,
    quiet: Quiet = False,
) -> None:
    """Measure the kernels beside torch, FlexAttention and FlashAttention, on the same tensors, in turns."""
    if ptxas:
        _show_compiled(as_json)
        return
    with _session(context) as session:
        from sky4.bench.kernels import kernel_cases, kernels_wanted, shapes_wanted

        wanted = kernels_wanted(kernel or ())
        shapes = shapes_wanted(shape or (), session.setting.device)
        cases = kernel_cases(shapes, wanted, session.setting, backward)
        session.told |= {"shapes": [one.name for one in shapes], "kernels": sorted(wanted), "backward": backward}
        session.run_cases(cases, budget)


@bench_app.command("stages")
def stages(
    context: typer.Context,
    prompt: Prompt = PROMPT,
    size: Size = None,
    frames: Frames = None,
    model: Model = None,
    budget: Budget = 120.0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    attention_backend: Backend = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    out: OutFile = None,
    force: Force = False,
    as_json: Json = False,
    baseline: Baseline = None,
    fail_over: FailOver = None,
    profile: Profile = None,
    quiet: Quiet = False,
) -> None:
    """Measure the parts of a generation: text, a step of the base model and of the refiner, decoding."""
    request = _request(model, prompt, size, frames, None, None, seed)
    with _session(context) as session:
        from sky4.bench.stages import stage_cases

        cases, missing = stage_cases(request, session.components(model))
        session.not_run += missing
        session.run_cases(cases, budget)


@bench_app.command("e2e")
def e2e(
    context: typer.Context,
    prompt: Prompt = PROMPT,
    size: Size = None,
    frames: Frames = None,
    steps: Steps = None,
    sampler: Sampler = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="BACKEND", help="Run another attention backend in turns.")
    ] = None,
    rounds: Rounds = 3,
    model: Model = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    attention_backend: Backend = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    out: OutFile = None,
    force: Force = False,
    as_json: Json = False,
    baseline: Baseline = None,
    fail_over: FailOver = None,
    profile: Profile = None,
    quiet: Quiet = False,
) -> None:
    """Measure whole generations: time, the share of each stage, peak memory."""
    _check_rounds(rounds)
    request = _request(model, prompt, size, frames, steps, sampler, seed)
    with _session(context) as session:
        from sky4.bench.e2e import measure_generations
        from sky4.bench.ours import check_backend

        if against is not None:
            check_backend("--against", against)
        components = session.components(model)
        session.told |= {"against": against, "rounds": rounds, "prompt": prompt}
        session.rows += measure_generations(request, components, against, rounds, session.say, session.trace)


@bench_app.command("quality")
def quality(
    context: typer.Context,
    prompt: Prompt = PROMPT,
    size: Size = None,
    frames: Frames = None,
    steps: Steps = None,
    sampler: Sampler = None,
    rounds: Rounds = 1,
    model: Model = None,
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    out: OutFile = None,
    force: Force = False,
    as_json: Json = False,
    baseline: Baseline = None,
    fail_over: FailOver = None,
    profile: Profile = None,
    quiet: Quiet = False,
) -> None:
    """Measure what each speed option gains, and what it costs against float32: latent PSNR and log-mel distance."""
    _check_rounds(rounds)
    request = _request(model, prompt, size, frames, steps, sampler, seed)
    with _session(context, dtype="float32", attention_backend="reference") as session:
        from sky4.bench.quality import measure_quality, options_for

        options = options_for(request, lambda kind: session.components(model, kind), session.setting.device)
        session.told |= {"rounds": rounds, "prompt": prompt}
        rows, missing = measure_quality(options, rounds, session.say, session.trace)
        session.rows += rows
        session.not_run += missing


@bench_app.command("tower")
def tower(
    context: typer.Context,
    budget: Budget = 120.0,
    device: Device = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16, float16, or auto: the first two.")] = "auto",
    attention_backend: Backend = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    out: OutFile = None,
    force: Force = False,
    as_json: Json = False,
    baseline: Baseline = None,
    fail_over: FailOver = None,
    profile: Profile = None,
    quiet: Quiet = False,
) -> None:
    """Measure our video tower beside diffusers' HunyuanVideo transformer with the same random weights."""
    with _session(context) as session:
        import torch

        from sky4.bench.tower import TowerSize, tower_case

        dtypes = [session.setting.dtype] if dtype != "auto" else [torch.float32, torch.bfloat16]
        session.run_cases([tower_case(TowerSize(), session.setting, kind) for kind in dtypes], budget, dtypes)


bench_app.command("calibrate")(calibrate)


def _show_compiled(as_json: bool) -> None:
    """The compiler's log as a table, or as JSON."""
    import dataclasses
    import json

    from sky4.bench.ptxas import read_log
    from sky4cli.bench_table import compiled_table, show

    found = read_log()
    if as_json:
        print(json.dumps([dataclasses.asdict(kernel) for kernel in found], separators=(",", ":")))
    else:
        show(compiled_table(found))


def _check_rounds(rounds: int) -> None:
    if not 1 <= rounds <= 1000:
        raise RequestError(f"--rounds {rounds} is outside 1 to 1000; 3 is usual")


def _request(
    model: Path | None,
    prompt: str,
    size: str | None,
    frames: int | None,
    steps: int | None,
    sampler: Literal["euler", "heun", "unipc"] | None,
    seed: int,
) -> ClipRequest:
    """The clip that is generated; what is not asked for is as the model was trained."""
    from sky4.pipeline.model_folder import BUNDLED, ModelFolder

    folder = ModelFolder.read(model or BUNDLED)
    made = request_of_model(folder, prompt)
    width, height = parse_size(size) if size is not None else (made.width, made.height)
    request = replace(
        made,
        width=width,
        height=height,
        frames=made.frames if frames is None else frames,
        steps=made.steps if steps is None else steps,
        sampler=sampler or made.sampler,
        seed=seed,
    )
    folder.geometry(width, height, request.frames, request.fps)
    return request


def request_of_model(folder: ModelFolder, prompt: str) -> ClipRequest:
    """A clip as the model was trained."""
    from sky4cli.requests import Sampling, Shape, request_of

    defaults = folder.defaults
    shape = Shape(defaults.width, defaults.height, defaults.frames, defaults.fps)
    return request_of(prompt, shape, Sampling(), defaults)


def _session(context: typer.Context, **fixed: str) -> BenchSession:
    """What all commands share, from the options of this command; `fixed` are those that it does not have."""
    from sky4cli.bench_session import BenchSession

    assert context.info_name is not None
    return BenchSession(context.info_name, {**context.params, **fixed})
