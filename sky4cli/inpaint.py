"""`sky4 inpaint`: a part of a clip or picture made anew; what lies outside of it keeps the source's own pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sky4.errors import RequestError
from sky4cli.options import (
    AudioGuidance,
    Backend,
    C2pa,
    Device,
    DryRun,
    Dtype,
    Enhance,
    Events,
    Force,
    From,
    Guidance,
    Json,
    KeepAudio,
    Memory,
    Mix,
    Model,
    NegativePrompt,
    NoMetadata,
    Only,
    PartSeconds,
    PreviewEvery,
    Quiet,
    Ref,
    Resume,
    ResumeDir,
    Sampler,
    Seed,
    Shift,
    Sidecar,
    Size,
    SourceFps,
    Steps,
    Variations,
    from_stdin,
    parse_memory,
    provenance_of,
    soundtrack_of,
)
from sky4cli.pipe import Container, opened
from sky4cli.planned import Engine, Planned
from sky4cli.refining import KeyframesAt, RefineTo, with_refinement

if TYPE_CHECKING:
    from fractions import Fraction

    from sky4.media.masks import EditRegion
    from sky4.pipeline.request import Canvas, Source
    from sky4cli.console import Reporter
    from sky4cli.requests import Shape, SourceFile

STRETCH = 1.2  # whole cells alone change the proportions by some per cent

EXAMPLES = (
    'sky4 inpaint clip.mp4 --mask mask.png --feather 4 --prompt "a blue star bounces on the ground" -o star.mp4',
    'sky4 inpaint clip.mp4 --pad 25%,0,25%,0 --prompt "a red circle on a navy background" --seconds 1 -o wide.mp4',
)


def inpaint(
    video: Annotated[Path, typer.Argument(metavar="VIDEO|PICTURE", help="The clip of which a part is made anew.")],
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            metavar="TEXT",
            callback=from_stdin,
            help="What is seen and heard; - reads it from stdin. Not needed for --mask-preview alone.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="PATH", help="Output; default: the input's name with -inpainted, .mp4 or .png."
        ),
    ] = None,
    container: Container = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            "--mask",
            metavar="[NAME=]PATH",
            help="A picture for all frames, or a video or folder of pictures with one for each; @NAME in the prompt.",
        ),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(
            "--box", metavar="X,Y,W,H[@S-S]", help="A rectangle of VIDEO, in pixels or per cent, at these seconds."
        ),
    ] = None,
    retake: Annotated[
        list[str] | None, typer.Option("--retake", metavar="S-S", help="Whole frames, from and to these seconds.")
    ] = None,
    pad: Annotated[
        str | None,
        typer.Option("--pad", metavar="L,T,R,B", help="Room around the picture, in pixels or per cent, to be filled."),
    ] = None,
    mask_mode: Annotated[
        Literal["white-edits", "white-keeps"], typer.Option("--mask-mode", help="What white in a mask means.")
    ] = "white-edits",
    mask_threshold: Annotated[
        float, typer.Option("--mask-threshold", metavar="X", help="From this brightness on, 0 to 1, a mask is white.")
    ] = 0.5,
    grow: Annotated[int, typer.Option("--grow", metavar="N", help="Widen what is made anew by so many pixels.")] = 0,
    feather: Annotated[
        int, typer.Option("--feather", metavar="N", help="Blend over so many pixels inside of its edge.")
    ] = 0,
    fit_mask: Annotated[
        bool, typer.Option("--fit-mask", help="Scale masks of another size, hold or cut those of another length.")
    ] = False,
    mask_preview: Annotated[
        Path | None,
        typer.Option("--mask-preview", metavar="PNG", help="Draw what is made anew over the source, before any work."),
    ] = None,
    negative_prompt: NegativePrompt = "",
    ref: Ref = None,
    start: From = None,
    seconds: PartSeconds = None,
    size: Size = None,
    fps: SourceFps = None,
    keep_audio: KeepAudio = False,
    mix: Mix = None,
    steps: Steps = None,
    sampler: Sampler = None,
    guidance: Guidance = None,
    audio_guidance: AudioGuidance = None,
    shift: Shift = None,
    seed: Seed = 0,
    variations: Variations = 1,
    only: Only = None,
    enhance: Enhance = None,
    refine: RefineTo = None,
    keyframes: KeyframesAt = None,
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
) -> Planned | None:
    """Make a part of a clip or a picture anew; what lies outside of it stays as it is. Times are seconds of VIDEO."""
    from sky4.media.masks import EditRegion, parse_box, parse_mask, parse_pad, parse_span
    from sky4.pipeline.model_folder import BUNDLED, ModelFolder
    from sky4.pipeline.validate import validate
    from sky4.prompting import resolve_references
    from sky4cli.console import Reporter
    from sky4cli.following import Following
    from sky4cli.make import variation_paths
    from sky4cli.requests import Sampling, outputs_of_source, read_source, request_of, source_shape

    if prompt is None and mask_preview is None:
        raise RequestError("--prompt is missing; describe the clip, or look at the mask alone with --mask-preview")
    region = EditRegion(
        files=tuple(parse_mask(text) for text in mask or ()),
        boxes=tuple(parse_box(text) for text in box or ()),
        spans=tuple(parse_span("--retake", text) for text in retake or ()),
        pad=parse_pad(pad) if pad is not None else None,
        mode=mask_mode,
        threshold=mask_threshold,
        grow=grow,
        feather=feather,
        fit=fit_mask,
    )
    following = Following(resume_dir, resume, events, preview_every)
    folder = ModelFolder.read(model or BUNDLED)
    file = read_source(video, folder.defaults, fps, start, seconds)
    target = opened(out, container, variations) or file.default_out("inpainted")
    source, canvas, notes = laid_out(file, region, target)
    if prompt is None and mask_preview is not None:
        with Reporter(quiet=quiet, as_json=as_json, events=events, command="inpaint") as reporter:
            for note in notes:
                reporter.note(f"note: {note}")
            draw_preview(mask_preview, source, canvas, file.fps, force, reporter)
            reporter.record({"mask_preview": str(mask_preview)})
        return None
    outputs = outputs_of_source(file, target, only)
    soundtrack, outputs = soundtrack_of(file.path, file.skip / file.fps, keep_audio, mix, outputs)
    references = resolve_references(ref or [])
    sampling = Sampling(steps, sampler, guidance, audio_guidance, shift, seed, negative_prompt, variations)
    shape = source_shape(replace(file, width=canvas.width, height=canvas.height), size, folder)
    request = replace(
        request_of(prompt or "", shape, sampling, folder.defaults, outputs),
        sources=(source,),
        canvas=canvas,
        references=references,
        soundtrack=soundtrack,
    )
    request = with_refinement(request, folder, refine, keyframes)
    if mask_preview is not None:
        validate(request, folder)  # nothing is written for what is refused
        variation_paths(target, variations, force, resume)
        with Reporter(quiet=quiet, as_json=as_json) as reporter:
            draw_preview(mask_preview, source, canvas, file.fps, force, reporter)
    engine = Engine(folder.path, device, dtype, attention_backend, memory=parse_memory(memory), dry_run=dry_run)
    notes += stretched(shape, canvas)
    provenance = provenance_of(no_metadata, sidecar, c2pa)
    return Planned(request, engine, target, force, as_json, quiet, enhance, notes, following, provenance)


def laid_out(file: SourceFile, region: EditRegion, out: Path) -> tuple[Source, Canvas, tuple[str, ...]]:
    """The source with its region, the canvas that it lies on, and what is worth saying of both.

    RequestError for a region that does not fit the source.
    """
    from sky4.media.mask_frames import canvas_of, check_region
    from sky4.pipeline.canvas import footage_of
    from sky4.pipeline.request import Source
    from sky4cli.requests import canvas_for

    source = Source(file.path, str(file.path), frames=file.frames, skip=file.skip, region=region)
    footage = footage_of(source, file.fps)
    check_region(region, footage, file.path)
    _, _, width, height = canvas_of(region, footage)
    notes = file.notes
    if region.files:
        white, black = ("made anew", "kept") if region.mode == "white-edits" else ("kept", "made anew")
        notes += (f"--mask-mode {region.mode}: what is white in the mask is {white}, what is black is {black}",)
    canvas, cut = canvas_for(width, height, out)
    return source, canvas, notes + cut


def stretched(shape: Shape, canvas: Canvas) -> tuple[str, ...]:
    """What is worth saying of a --size with other proportions."""
    ratio = shape.width / shape.height * canvas.height / canvas.width
    if 1 / STRETCH <= ratio <= STRETCH:
        return ()
    size = f"{shape.width}x{shape.height}"
    return (f"the picture of {canvas.width}x{canvas.height} is stretched to the model's {size}, and back",)


def draw_preview(path: Path, source: Source, canvas: Canvas, fps: Fraction, force: bool, reporter: Reporter) -> None:
    """Draw what is made anew over the source's frames. RequestError for a name that is none or is an input's."""
    from sky4.distributed.meeting import is_first
    from sky4.media.mask_preview import write_mask_preview
    from sky4.pipeline.canvas import on_canvas
    from sky4cli.make import spare_inputs

    spare_inputs([path], [source.path, *(mask.path for mask in (source.region.files if source.region else ()))])
    if not is_first():
        return
    shown = write_mask_preview(path, on_canvas(source, canvas, fps), source.frames, force)
    frames = "the region as it is in every frame" if shown == 1 else f"{shown} frames of {source.frames}"
    reporter.result(f"{path}  {canvas.width}x{canvas.height}  {frames}; what is made anew is tinted")
