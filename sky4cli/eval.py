"""`sky4 eval`: how good a model is. Clips are made for held-out prompts and measured; a table, a JSON, a picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sky4.errors import RequestError
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
    from sky4.evaluation.world import ClipSize, Evaluation
    from sky4.pipeline.clip import Clip
    from sky4.pipeline.request import ClipRequest

eval_app = typer.Typer(
    name="eval", help="Measure what a model makes.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)

RESULTS, SHEET, CLIPS = "results.json", "contact_sheet.png", "clips"


@eval_app.callback()
def _root() -> None:
    """Measure what a model makes."""


@eval_app.command("world")
def world(
    prompts: Annotated[
        Literal["heldout", "train"], typer.Option("--prompts", help="Pairs of shape and colour never or often trained.")
    ] = "heldout",
    count: Annotated[int, typer.Option("-n", "--count", metavar="N", help="How many prompts.")] = 64,
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
    """Make clips for prompts of the procedural world and measure colour, shape, motion, sound, synchrony and place."""
    from sky4.pipeline.model_folder import BUNDLED, ModelFolder
    from sky4cli.console import Reporter
    from sky4cli.requests import Sampling, Shape, request_of

    if ceiling and codec:
        raise RequestError("--ceiling and --codec are both given; run them one after the other")
    if not 1 <= count <= 100_000:
        raise RequestError(f"--count {count} is outside 1 to 100000; 64 is usual")
    starts = min(4, count) if first_frames is None else first_frames
    if not 0 <= starts <= count:
        raise RequestError(f"--first-frames {first_frames} is outside 0 to the --count of {count}; 4 is usual")
    if save_clips and (ceiling or codec):
        raise RequestError(f"--save-clips keeps what a model makes; drop --{'ceiling' if ceiling else 'codec'}")
    _check_folder(out, force)
    folder = ModelFolder.read(model or BUNDLED)
    defaults = folder.defaults
    width, height = parse_size(size) if size is not None else (defaults.width, defaults.height)
    if width != height:
        raise RequestError(f"--size {width}x{height}: the world is square; ask for {height}x{height}")
    shape = Shape(width, height, defaults.frames if frames is None else frames, defaults.fps)
    sampling = Sampling(steps, sampler, guidance, audio_guidance, shift, seed)
    request = request_of("(each of the prompts)", shape, sampling, defaults)
    folder.geometry(width, height, request.frames, request.fps)
    with Reporter(quiet=quiet, as_json=as_json) as reporter:
        reporter.stage("loading", 0, 1)
        from sky4.evaluation.world import ClipSize, evaluate_codecs, evaluate_model, evaluate_renders
        from sky4.pipeline.components import Components
        from sky4.world.evaluate import world_prompts

        asked = world_prompts(count, prompts)
        of = "renders" if ceiling else "codecs" if codec else "model"
        clip_size = ClipSize(width, request.frames, request.fps, folder.sample_rate)
        if ceiling:
            result = evaluate_renders(asked, clip_size, reporter.stage)
        else:
            components = Components.load(folder.path, device, dtype, attention_backend)
            if codec:
                result = evaluate_codecs(asked, clip_size, components, reporter.stage)
            else:
                keep = _keeper(out, force) if save_clips else None
                result = evaluate_model(asked, request, components, reporter.stage, first_frames=starts, keep=keep)
        settings = _settings(of, prompts, request, clip_size, folder.manifest.name)
        results = {**settings, **result.to_dict()}
        _write(out, results, result)
    if not as_json:
        _say(settings, result)
    reporter.result(f"{out / RESULTS}  {out / SHEET}")
    told = {key: value for key, value in results.items() if key != "clips"}
    reporter.record({**told, "results": str(out / RESULTS), "contact_sheet": str(out / SHEET)})


def _check_folder(out: Path, force: bool) -> None:
    """RequestError for a place where results cannot be written, or lie already."""
    if out.exists() and not out.is_dir():
        raise RequestError(f"--out {out} is a file; name a folder")
    found = [name for name in (RESULTS, SHEET) if (out / name).exists()]
    if found and not force:
        raise RequestError(f"--out {out} holds {found[0]} already; choose another folder, or --force to replace it")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--out {out} cannot be made ({error.strerror}); choose another folder") from error


def _keeper(out: Path, force: bool) -> Callable[[int, Clip], None]:
    (out / CLIPS).mkdir(exist_ok=True)

    def keep(number: int, clip: Clip) -> None:
        clip.save(out / CLIPS / f"{number:03d}.mp4", force=force)

    return keep


def _settings(of: str, prompts: str, request: ClipRequest, size: ClipSize, model: str) -> dict[str, Any]:
    """What the numbers belong to."""
    told: dict[str, Any] = {"measured": of, "prompts": prompts, "model": model}
    told |= {"size": size.size, "frames": size.frames, "fps": str(size.fps)}
    if of == "model":
        names = ("steps", "sampler", "guidance", "audio_guidance", "shift", "seed")
        told |= {name: getattr(request, name) for name in names}
    return told


def _write(out: Path, results: dict[str, Any], result: Evaluation) -> None:
    """Both files under temporary names first, so that neither is ever half written."""
    from sky4.media.destination import whole_or_nothing

    with whole_or_nothing(out / SHEET, force=True) as partial:
        result.sheet().save(partial, format="PNG")
    partial = out / f".{RESULTS}.partial"
    try:
        partial.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
        partial.replace(out / RESULTS)
    finally:
        partial.unlink(missing_ok=True)


def _say(settings: dict[str, Any], result: Evaluation) -> None:
    """The table, for people."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    title = f"{settings['measured']}: {len(result.rows)} {settings['prompts']} prompts, {settings['size']} pixels"
    table = Table(title=f"{title}, {settings['frames']} frames", box=SIMPLE, title_justify="left")
    table.add_column("measure")
    for heading in (settings["measured"], "chance", "renders", "on"):
        table.add_column(heading, justify="right")
    for measure in result.table:
        best = result.ceiling.get(measure.name, float("nan"))
        numbers = (_number(value, measure.unit) for value in (measure.value, measure.chance, best))
        table.add_row(measure.name, *numbers, str(measure.count))
    console = Console(highlight=False)
    # in a pipe rich assumes 80 columns, and would cut the names short
    console.print(table, width=None if console.is_terminal else 100, soft_wrap=not console.is_terminal)


def _number(value: float, unit: str) -> str:
    if value != value:  # not a number: nothing to compare with
        return "-"
    return {"share": f"{100 * value:.1f} %", "ms": f"{value:.1f} ms", "dB": f"{value:.1f} dB"}.get(unit, f"{value:.3f}")
