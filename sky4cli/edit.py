"""`sky4 edit`: a clip or picture changed as an instruction says; the file is a reference, so nothing is masked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sky4.errors import RequestError
from sky4cli.options import (
    AudioGuidance,
    Backend,
    Device,
    Dtype,
    Events,
    Force,
    From,
    Guidance,
    Json,
    KeepAudio,
    Mix,
    Model,
    NegativePrompt,
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
    Size,
    SourceFps,
    Steps,
    Variations,
    soundtrack_of,
)

if TYPE_CHECKING:
    from sky4.prompting import ReferenceFile
    from sky4cli.requests import SourceFile

EXAMPLES = (
    'sky4 edit clip.mp4 --prompt "remove the watermark" -o clean.mp4',
    "sky4 edit clip.mp4 --keep-audio --ref image_1=star.png "
    '--prompt "@image_1 takes the place of the red circle in @video_1" -o star.mp4',
)


def edit(
    video: Annotated[Path, typer.Argument(metavar="VIDEO|PICTURE", help="The clip to change; @video_1 in the prompt.")],
    prompt: Annotated[str, typer.Option("--prompt", metavar="TEXT", help="What to change, as an instruction.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="PATH", help="Output; default: the input's name with -edited, .mp4 or .png."
        ),
    ] = None,
    negative_prompt: NegativePrompt = "",
    image: Annotated[
        Path | None, typer.Option("--image", metavar="FILE", help="The first frame, as it shall look when changed.")
    ] = None,
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
    model: Model = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    attention_backend: Backend = "auto",
    resume_dir: ResumeDir = None,
    resume: Resume = False,
    events: Events = None,
    preview_every: PreviewEvery = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Change a clip or a picture as an instruction says. Sound is made anew; --keep-audio and --mix keep it."""
    from sky4.pipeline.model_folder import BUNDLED, ModelFolder
    from sky4.pipeline.request import Source
    from sky4.prompting import resolve_references
    from sky4cli.console import Reporter
    from sky4cli.following import Following
    from sky4cli.make import Engine, make_clips, variation_paths
    from sky4cli.requests import Sampling, outputs_of_source, read_source, request_of, source_shape

    following = Following(resume_dir, resume, events, preview_every)
    folder = ModelFolder.read(model or BUNDLED)
    references = resolve_references(ref or [])
    source = read_source(video, folder.defaults, fps, start, seconds)
    if source.kind == "image" and image is not None:
        raise RequestError(f"--image {image} would be the whole of a changed picture; drop it, or give it as --ref")
    target = out or source.default_out("edited")
    soundtrack, outputs = soundtrack_of(
        video, source.skip / source.fps, keep_audio, mix, outputs_of_source(source, target, only)
    )
    paths = variation_paths(target, variations, force, resume)
    sampling = Sampling(steps, sampler, guidance, audio_guidance, shift, seed, negative_prompt, variations)
    request = replace(
        request_of(prompt, source_shape(source, size, folder), sampling, folder.defaults, outputs),
        sources=(Source(image, "--image"),) if image is not None else (),
        soundtrack=soundtrack,
        references=(*references, source_reference(source, references)),
    )
    with Reporter(quiet=quiet, as_json=as_json, events=events, command="edit") as reporter:
        engine = Engine(folder.path, device, dtype, attention_backend)
        make_clips(request, engine, paths, force, reporter, notes=source.notes, following=following)


def source_reference(source: SourceFile, others: tuple[ReferenceFile, ...]) -> ReferenceFile:
    """The file being edited as video_1, or image_1 of a picture, whether the prompt mentions it or not.

    Unmentioned it lies nearest to the clip, behind what --ref gives, as the model is trained.
    RequestError where --ref has given that name away.
    """
    from sky4.prompting import ReferenceFile

    name = f"{source.kind}_1"
    if any(other.name == name for other in others):
        raise RequestError(f"--ref {name}: @{name} is '{source.path}', the file being edited; call it {source.kind}_2")
    return ReferenceFile(name, source.path, source.kind, source.skip, implied=True)
