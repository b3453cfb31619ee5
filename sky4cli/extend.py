"""`sky4 extend`: a clip continued, or led up to, in rounds; its own frames stay as they are."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from sky4.errors import RequestError
from sky4cli.options import (
    AudioGuidance,
    Backend,
    C2pa,
    Device,
    DryRun,
    Dtype,
    EncodeAudio,
    Enhance,
    Events,
    Force,
    From,
    Guidance,
    Json,
    Memory,
    Model,
    NegativePrompt,
    NoMetadata,
    PreviewEvery,
    Prompt,
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
    parse_memory,
    parse_number,
    parse_start,
    provenance_of,
)
from sky4cli.pipe import Container, opened
from sky4cli.planned import Engine, Planned
from sky4cli.refining import KeyframesAt, RefineTo, with_refinement

if TYPE_CHECKING:
    from sky4.pipeline.model_folder import Defaults
    from sky4.shots.kinds import Content
    from sky4cli.requests import SourceFile

EXAMPLES = (
    'sky4 extend clip.mp4 --seconds 2 --prompt "a red circle moves right, on a navy background" -o longer.mp4',
    'sky4 extend clip.mp4 --to 3 --backward --prompt "a red circle moves right, on a navy background" -o earlier.mp4',
)
LONGEST_SECONDS = 600  # of the source, and of what is added: their sound is held in memory


def extend(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="The clip to extend; its frames and sound stay.")],
    prompt: Prompt,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="PATH", help="Output; default: the input's name with -extended, .mp4."),
    ] = None,
    container: Container = None,
    seconds: Annotated[str | None, typer.Option("--seconds", metavar="S", help="How much is added.")] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="S", help="How long the whole becomes, instead of --seconds.")
    ] = None,
    backward: Annotated[
        bool, typer.Option("--backward", help="Add in front: what came before the clip, instead of what follows.")
    ] = False,
    overlap: Annotated[
        int | None,
        typer.Option("--overlap", metavar="N", help="Frames, 4n+1, that each round keeps of what is there already."),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option("--window", metavar="N", help="Frames, 4n+1, that a round makes, with the kept ones."),
    ] = None,
    sound: Annotated[
        bool | None,
        typer.Option("--sound/--no-sound", help="Whether sound is made and kept; default: if the clip has sound."),
    ] = None,
    encode_audio: EncodeAudio = False,
    transition: Annotated[
        str,
        typer.Option(
            "--transition",
            metavar="KIND",
            help="Begin what is added as another shot: cut-in, cut-out, shot-reverse-shot, multi-angle or cut-away; "
            "auto: as the prompt names it, else after 4 s of one shot nearer or back again; none: the shot goes on.",
        ),
    ] = "none",
    negative_prompt: NegativePrompt = "",
    ref: Ref = None,
    start: From = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="S", help="Where in the clip the part that is taken ends.")
    ] = None,
    size: Size = None,
    fps: SourceFps = None,
    steps: Steps = None,
    sampler: Sampler = None,
    guidance: Guidance = None,
    audio_guidance: AudioGuidance = None,
    shift: Shift = None,
    seed: Seed = 0,
    variations: Variations = 1,
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
) -> Planned:
    """Continue a clip, or make what came before it, in rounds until it is as long as asked for."""
    from sky4.media import Soundtrack
    from sky4.pipeline.model_folder import BUNDLED, ModelFolder
    from sky4.pipeline.request import Source
    from sky4.pipeline.segments import choose_segments
    from sky4.prompting import resolve_references
    from sky4cli.following import Following
    from sky4cli.requests import Sampling, canvas_for, outputs_of_source, request_of, source_shape

    following = Following(resume_dir, resume, events, preview_every)
    check_transition(transition, backward)
    folder = ModelFolder.read(model or BUNDLED)
    references = resolve_references(ref or [])
    file = read_part(video, folder.defaults, fps, start, until)
    added = frames_to_add(file, seconds, to)
    segments = choose_segments(f"'{video}'", file.frames, added, folder, overlap, window, backward)
    kind, said = shot_that_follows(transition, prompt, file)
    segments, prompt = replace(segments, transition=kind), prompt_of_shot(prompt, kind)
    target = opened(out, container, variations) or file.default_out("extended")
    outputs_of_source(replace(file, frames=file.frames + added), target, None)
    canvas, notes = canvas_for(file.width, file.height, target)
    heard = file.has_audio if sound is None else sound
    continues = heard and file.has_audio and not encode_audio
    if sound is None and not heard:
        notes += (f"'{video}' has no sound, so none is made; --sound makes it for what is added",)
    sampling = Sampling(steps, sampler, guidance, audio_guidance, shift, seed, negative_prompt, variations)
    shape = replace(source_shape(file, size, folder), frames=file.frames + added)
    given = Source(video, str(video), start=added if backward else 0, frames=file.frames, skip=file.skip)
    request = replace(
        request_of(prompt, shape, sampling, folder.defaults, "both" if heard else "video"),
        sources=(given,),
        references=references,
        canvas=canvas,
        soundtrack=Soundtrack(video, file.skip / file.fps) if continues else None,
        segments=segments,
    )
    request = with_refinement(request, folder, refine, keyframes)
    engine = Engine(folder.path, device, dtype, attention_backend, memory=parse_memory(memory), dry_run=dry_run)
    notes = (*file.notes, *said, *notes)
    provenance = provenance_of(no_metadata, sidecar, c2pa)
    return Planned(request, engine, target, force, as_json, quiet, enhance, notes, following, provenance)


def check_transition(transition: str, backward: bool) -> None:
    """RequestError for a kind that there is not, and for one in front of a clip."""
    from sky4.shots.kinds import CONTENTS

    known = ("none", *CONTENTS, "auto")
    if transition not in known:
        raise RequestError(f"--transition {transition} is unknown; choose one of {', '.join(known)}")
    if backward and transition != "none":
        raise RequestError(f"--transition {transition} is for what follows a clip; drop --backward")


def shot_that_follows(
    transition: str, prompt: str, file: SourceFile
) -> tuple[Content | Literal["none"], tuple[str, ...]]:
    """(what is asked of the model, what is worth saying of it): --transition, auto by its rule."""
    if transition != "auto":
        return cast("Content", transition), ()
    from sky4.shots.auto import choose_transition
    from sky4.shots.cutting import FilmShots
    from sky4.shots.network import ShotNetwork

    chosen = choose_transition(prompt, FilmShots(file.path, ShotNetwork.load()), (file.skip + file.frames) / file.fps)
    return chosen.kind, (f"--transition auto is {chosen.kind}, {chosen.why}",)


def prompt_of_shot(prompt: str, kind: Content | Literal["none"]) -> str:
    """The transition's words in front, unless the prompt names it itself."""
    from sky4.shots.words import read_switches, switched

    if kind == "none" or kind in read_switches(prompt) or not prompt.strip():
        return prompt
    return switched(prompt, kind)


def read_part(path: Path, defaults: Defaults, fps: str | None, start: str | None, until: str | None) -> SourceFile:
    """The clip, from --from until --until. RequestError for a picture, and for a part that is too long or not there."""
    from sky4.media import probe_video
    from sky4.prompting.references import kind_of
    from sky4cli.requests import read_source

    if kind_of(path) == "image":
        raise RequestError(f"'{path}' is a picture; `sky4 generate --image {path}` makes a clip that begins with it")
    begin = Fraction(0) if start is None else parse_start("--from", start, "2 or 1.5")
    part = None
    if until is not None:
        end, has = parse_number("--until", until, "4 or 3.5"), probe_video(path).seconds
        if not begin < end <= has:
            whole = f"'{path}' lasts {float(has):.2f} s"
            raise RequestError(f"--until {until}: {whole}, and what is taken of it begins at {float(begin):g} s")
        part = str(end - begin)
    file = read_source(path, defaults, fps, start, part, longest=None)
    if file.frames > LONGEST_SECONDS * file.fps:
        raise RequestError(
            f"'{path}' gives {float(file.frames / file.fps):.0f} s, more than {LONGEST_SECONDS} s; take a part of it "
            "with --from and --until"
        )
    return file


def frames_to_add(file: SourceFile, seconds: str | None, to: str | None) -> int:
    """How many frames are made: --seconds, or what is missing --to the length. RequestError unless one is given."""
    if (seconds is None) == (to is None):
        given = "are both given; drop one of them" if to is not None else "are both missing; give --seconds 5"
        raise RequestError(f"--seconds, how much is added, and --to, how long the whole becomes, {given}")
    if to is not None:
        flag, text, has = "--to", to, file.frames / file.fps
        wanted = parse_number(flag, text, "20 or 12.5") - has
        if wanted <= 0:
            raise RequestError(f"--to {to}: '{file.path}' gives {float(has):.2f} s already; ask for more")
    else:
        assert seconds is not None
        flag, text = "--seconds", seconds
        wanted = parse_number(flag, text, "5 or 2.5")
    if wanted > LONGEST_SECONDS:
        raise RequestError(
            f"{flag} {text} would add {float(wanted):.0f} s, more than {LONGEST_SECONDS} s at a time; ask for less, "
            "and extend the result again"
        )
    return max(1, round(wanted * file.fps))
