"""`sky4 refine`: a clip or picture of any origin made larger, and a clip smoother, over its own sound."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sky4.errors import RequestError
from sky4cli.options import (
    Backend,
    C2pa,
    Device,
    DryRun,
    Dtype,
    Events,
    Force,
    From,
    Json,
    Memory,
    Model,
    NoMetadata,
    PartSeconds,
    PreviewEvery,
    Quiet,
    Resume,
    ResumeDir,
    Seed,
    Sidecar,
    parse_memory,
    provenance_of,
)
from sky4cli.pipe import Container, opened
from sky4cli.planned import Engine, Planned
from sky4cli.refining import latent_frames_of

if TYPE_CHECKING:
    from sky4.media import Soundtrack
    from sky4.pipeline.model_folder import ModelFolder
    from sky4.pipeline.refinement import Refinement
    from sky4cli.requests import SourceFile

EXAMPLES = (
    "sky4 refine clip.mp4 -o larger.mp4",
    "sky4 refine clip.mp4 --seconds 1 --size 128x128 --fps 16 -o sharper.mp4",
)


def refine(
    video: Annotated[Path, typer.Argument(metavar="VIDEO|PICTURE", help="The clip to refine; its sound stays.")],
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", metavar="TEXT", help="What is seen; default: the prompt in the file's recipe, if any."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="PATH", help="Output; default: the input's name with -refined, .mp4 or .png."
        ),
    ] = None,
    container: Container = None,
    size: Annotated[
        str, typer.Option("--size", metavar="WxH|Nx", help="Pixels, or so many times the clip's: 1280x720, 1.5x.")
    ] = "2x",
    fps: Annotated[
        str | None,
        typer.Option("--fps", metavar="R", help="The clip's own frames a second, or (default) twice as many."),
    ] = None,
    start: From = None,
    seconds: PartSeconds = None,
    sound: Annotated[
        bool, typer.Option("--sound/--no-sound", help="Whether the clip's sound is carried over, byte for byte.")
    ] = True,
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="Refining steps.")] = None,
    keyframes: Annotated[
        str | None,
        typer.Option(
            "--keyframes",
            metavar="N|S,S",
            help="Have the base model make N frames, evenly spread, or those at these seconds, at the size first.",
        ),
    ] = None,
    seed: Seed = 0,
    model: Model = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    attention_backend: Backend = "auto",
    memory: Memory = None,
    dry_run: DryRun = False,
    resume_dir: ResumeDir = None,
    resume: Resume = False,
    events: Events = None,
    preview_every: PreviewEvery = None,
    no_metadata: NoMetadata = False,
    sidecar: Sidecar = False,
    c2pa: C2pa = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> Planned:
    """Make a clip or a picture larger, and a clip smoother: twice the frames. Its sound is kept as it is."""
    from sky4.pipeline.model_folder import BUNDLED, ModelFolder
    from sky4.pipeline.request import ClipRequest, Source
    from sky4cli.following import Following
    from sky4cli.requests import outputs_of_source, read_source

    following = Following(resume_dir, resume, events, preview_every)
    folder = ModelFolder.read(model or BUNDLED)
    file = read_source(video, folder.defaults, None, start, seconds)
    target = target_of(file, folder, size, fps, steps)
    low = worked_size(file, target, folder)
    path = opened(out, container) or file.default_out("refined")
    outputs = outputs_of_source(file, path, None)
    said, notes = (prompt, ()) if prompt is not None else recorded_prompt(video)
    track, more = soundtrack(file, path, sound) if outputs == "both" else (None, ())
    defaults = folder.defaults
    request = ClipRequest(
        prompt=said,
        width=low[0],
        height=low[1],
        frames=file.frames,
        fps=file.fps,
        steps=defaults.steps,
        guidance=defaults.guidance,
        audio_guidance=defaults.audio_guidance,
        shift=defaults.shift,
        sampler=defaults.sampler,
        seed=seed,
        outputs="video" if outputs == "both" else outputs,
        sources=(Source(video, str(video), frames=file.frames, skip=file.skip),),
        soundtrack=track,
        refinement=target,
    )
    if keyframes is not None:
        request = replace(request, refinement=replace(target, keyframes=latent_frames_of(keyframes, request, folder)))
    engine = Engine(folder.path, device, dtype, attention_backend, memory=parse_memory(memory), dry_run=dry_run)
    notes = (*file.notes, *notes, *more)
    provenance = provenance_of(no_metadata, sidecar, c2pa)
    return Planned(request, engine, path, force, as_json, quiet, None, notes, following, provenance)


def target_of(file: SourceFile, folder: ModelFolder, size: str, fps: str | None, steps: int | None) -> Refinement:
    """What the file is refined to. RequestError unless that is larger than the file itself."""
    from sky4.pipeline.refinement import Refinement
    from sky4cli.refining import rate_of, size_of

    entry = folder.refiner("refine")
    if fps is not None and file.kind == "image":
        raise RequestError(f"--fps {fps}: '{file.path}' is a picture; drop it")
    rate = rate_of("--fps", fps, file.fps) if fps is not None else 2 if file.frames > 1 else 1
    width, height = size_of("--size", size, file.width, file.height, folder.cell)
    refine = Refinement(width, height, entry.steps if steps is None else steps, rate, flag="--size")
    refine.check_above(file.width, file.height, f"'{file.path}'")
    return refine


def worked_size(file: SourceFile, refine: Refinement, folder: ModelFolder) -> tuple[int, int]:
    """The size in whole cells at which the file is read: about its own, in the target's proportions."""
    cell = folder.cell
    width = min(Fraction(file.width), Fraction(file.height * refine.width, refine.height))
    sides = width, width * refine.height / refine.width
    limits = refine.width, refine.height
    columns, rows = (max(cell, min(round(side / cell) * cell, most)) for side, most in zip(sides, limits, strict=True))
    return columns, rows


def recorded_prompt(path: Path) -> tuple[str, tuple[str, ...]]:
    """(the prompt that the file was made from, what is worth saying of it); empty where it holds none."""
    from sky4.media import read_recipe
    from sky4.prompting import require_clean

    try:
        recipe = read_recipe(path)
        prompt = str(recipe["request"]["prompt"])
    except (RequestError, KeyError, TypeError):
        return "", ()
    try:
        if prompt.strip():
            require_clean(prompt, ())
    except RequestError:
        return "", ("the prompt in the file's recipe speaks of other files, so it is left out; --prompt gives another",)
    return prompt, ()


def soundtrack(file: SourceFile, out: Path, wanted: bool) -> tuple[Soundtrack | None, tuple[str, ...]]:
    """The file's own sound, copied, and what is worth saying. RequestError where the output cannot hold it."""
    from sky4.media import Soundtrack, output_format
    from sky4.media.soundtrack import check_holds_packets, packets_within

    if not wanted:
        return None, ()
    if not file.has_audio:
        return None, (f"'{file.path}' has no sound, so the refined clip has none",)
    if not output_format(out).muxer:
        return None, ("a folder of pictures holds no sound",)
    otherwise = "; or leave it out with --no-sound"
    skip = file.skip / file.fps
    try:
        track = packets_within(file.path, skip, file.frames / file.fps)
        check_holds_packets(track, out, "", "use .mkv")
    except RequestError as error:
        raise RequestError(f"{error}{otherwise}") from error
    return Soundtrack(file.path, skip), ()
