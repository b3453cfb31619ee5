"""`sky4 generate`: argv to a ClipRequest, the clips made one after the other, a line for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
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
    Fps,
    Frames,
    Guidance,
    Json,
    Memory,
    Model,
    NegativePrompt,
    NoMetadata,
    Only,
    Out,
    PreviewEvery,
    Prompt,
    Quiet,
    Ref,
    Resume,
    ResumeDir,
    Sampler,
    Seconds,
    Seed,
    Shift,
    Sidecar,
    Size,
    Steps,
    Variations,
    parse_memory,
    parse_number,
    parse_size,
    provenance_of,
)
from sky4cli.pipe import Container, opened
from sky4cli.planned import Engine, Planned
from sky4cli.refining import KeyframesAt, RefineTo, with_refinement
from sky4cli.speaking import Anchors, SpeakerBoxes, SpeakerFiles, SpeakerMasks, speakers_of, windows_of_driven

if TYPE_CHECKING:
    from sky4.pipeline.model_folder import Defaults
    from sky4.pipeline.request import Outputs, Source

# What a preset is planned for where nothing is asked for: 1080p, 32 frames a second, 481 of them.
PUBLISHED_SIZE, PUBLISHED_KEYFRAMES = "1920x1088@32", "5"

EXAMPLES = (
    'sky4 generate --prompt "a red circle bounces on the ground <sfx>a low drum at each bounce</sfx>" -o circle.mp4',
    'sky4 generate --image first.png --prompt "a yellow square moves right" --seconds 2 -o square.mp4',
)
LONGEST_DRIVEN = 600  # seconds of a sound that drives the picture: it is held in memory


def generate(
    prompt: Prompt,
    out: Out = Path("clip.mp4"),
    container: Container = None,
    negative_prompt: NegativePrompt = "",
    image: Annotated[Path | None, typer.Option("--image", metavar="FILE", help="The first frame.")] = None,
    last_image: Annotated[Path | None, typer.Option("--last-image", metavar="FILE", help="The last frame.")] = None,
    video: Annotated[
        Path | None, typer.Option("--video", metavar="FILE", help="A clip to make the sound for; its picture is kept.")
    ] = None,
    audio: Annotated[
        Path | None, typer.Option("--audio", metavar="FILE", help="With --drive: the sound that the picture follows.")
    ] = None,
    drive: Annotated[
        bool, typer.Option("--drive", help="Let --audio drive the picture (speech, a beat); it is kept as it is.")
    ] = False,
    speaker: SpeakerFiles = None,
    mask: SpeakerMasks = None,
    box: SpeakerBoxes = None,
    anchors: Anchors = None,
    ref: Ref = None,
    size: Size = None,
    seconds: Seconds = None,
    frames: Frames = None,
    fps: Fps = None,
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
    preset: Annotated[
        Literal["1b", "full"] | None,
        typer.Option("--preset", help="With --dry-run: plan with this architecture, which has no weights yet."),
    ] = None,
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
    """Make a clip from a prompt, and from pictures, video or sound where given."""
    from sky4.pipeline.model_folder import BUNDLED
    from sky4.prompting import resolve_references
    from sky4cli.fitting import folder_of
    from sky4cli.following import Following
    from sky4cli.requests import Sampling, Shape, outputs_for, request_of

    if audio is not None and not drive:
        raise RequestError(
            f"--audio {audio} needs --drive, to say that it drives the picture; "
            f"a sound that the prompt speaks of is --ref audio_1={audio}"
        )
    if drive and audio is None:
        raise RequestError("--drive needs the sound that drives: add --audio FILE")
    speakers = speakers_of(speaker, mask, box)
    out = opened(out, container, variations) or out
    outputs = outputs_for(out, only)
    references = resolve_references(ref or [])
    following = Following(resume_dir, resume, events, preview_every)
    if preset is not None:
        _check_preset(preset, model, dry_run)
        if refine is None and size is None:
            refine, keyframes = PUBLISHED_SIZE, keyframes or PUBLISHED_KEYFRAMES
    folder = folder_of(model or BUNDLED, preset)
    defaults = folder.defaults
    rate = parse_number("--fps", fps, "16 or 30000/1001") if fps is not None else defaults.fps
    width, height = parse_size(size) if size is not None else (defaults.width, defaults.height)
    given = [(flag, path) for flag, path in (("--video", video), ("--audio", audio)) if path is not None]
    given += [(one.flag, one.path) for one in speakers]
    shape = Shape(width, height, frames_wanted(seconds, frames, rate, outputs, given, defaults), rate)
    sampling = Sampling(steps, sampler, guidance, audio_guidance, shift, seed, negative_prompt, variations)
    anchored = image is not None if anchors is None else anchors
    request = replace(
        request_of(prompt, shape, sampling, defaults, outputs),
        sources=_sources(image, last_image),
        video=video,
        audio=audio,
        speakers=speakers,
        references=references,
        segments=windows_of_driven(shape.frames, folder, anchored) if drive or speakers else None,
    )
    request = with_refinement(request, folder, refine, keyframes)
    memory_bytes = parse_memory(memory)
    engine = Engine(folder.path, device, dtype, attention_backend, None, memory_bytes, dry_run, preset=preset)
    provenance = provenance_of(no_metadata, sidecar, c2pa)
    return Planned(request, engine, out, force, as_json, quiet, enhance, (), following, provenance)


def _check_preset(preset: str, model: Path | None, dry_run: bool) -> None:
    if model is not None:
        raise RequestError(f"--preset {preset} and --model {model} are both given; drop one of them")
    if not dry_run:
        raise RequestError(f"--preset {preset} has no weights to make a clip with; add --dry-run, or give a --model")


def frames_wanted(
    seconds: str | None,
    frames: int | None,
    fps: Fraction,
    outputs: Outputs,
    given: Sequence[tuple[str, Path]],
    defaults: Defaults,
) -> int:
    """The clip's length: as asked for, else as long as the given video or sounds (flag, file), else the model's own."""
    if seconds is not None and frames is not None:
        raise RequestError(f"--seconds {seconds} and --frames {frames} are both given; drop one of them")
    if frames is not None:
        return frames
    if seconds is not None:
        return max(1, round(parse_number("--seconds", seconds, "5 or 2.5") * fps))
    if outputs == "still":
        return 1
    if not given:
        return max(1, round(defaults.frames / defaults.fps * fps))
    from sky4.pipeline.validate import seconds_of
    from sky4cli.requests import LONGEST_SECONDS

    lasts, flag, path = max((seconds_of(flag, path), flag, path) for flag, path in given)
    most = LONGEST_SECONDS if flag == "--video" else LONGEST_DRIVEN
    if lasts > most:
        longest = f"more than {most} s; take a part with --seconds"
        raise RequestError(f"{flag} {path} lasts {lasts:.1f} s, {longest}")
    return max(1, round(lasts * float(fps)))


def _sources(image: Path | None, last_image: Path | None) -> tuple[Source, ...]:
    from sky4.pipeline.request import Source
    from sky4.prompting.references import kind_of

    for flag, path in (("--image", image), ("--last-image", last_image)):
        if path is not None and path.is_file() and kind_of(path) == "video":
            raise RequestError(f"{flag} {path} is a video; give a picture, such as one of its frames")
    first = (Source(image, "--image", start=0),) if image is not None else ()
    last = (Source(last_image, "--last-image", start=-1),) if last_image is not None else ()
    return first + last
