"""From the flags that commands share, and the file they work on, to a ClipRequest. No torch, no weights."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from sky4.errors import RequestError
from sky4.media import output_format, probe_image, probe_video
from sky4.pipeline.model_folder import Defaults, ModelFolder
from sky4.pipeline.request import Canvas, ClipRequest, Outputs, Sampler
from sky4.prompting.references import kind_of
from sky4cli.options import parse_number, parse_size, parse_start

LONGEST_SECONDS = 15  # what the architecture serves; more must be asked for with --seconds


@dataclass(frozen=True)
class Sampling:
    """How to sample, as typed; None leaves it to the model folder."""

    steps: int | None = None
    sampler: Sampler | None = None
    guidance: float | None = None
    audio_guidance: float | None = None
    shift: float | None = None
    seed: int = 0
    negative_prompt: str = ""
    variations: int = 1


@dataclass(frozen=True)
class Shape:
    """What the model works at: width, height in pixels, frames at fps."""

    width: int
    height: int
    frames: int
    fps: Fraction


@dataclass(frozen=True)
class SourceFile:
    """The file that a command works on, and the part of it that is taken.

    width, height: as displayed, in square pixels. frames: of the part, at the working rate fps; skip: how many lie
    before it. notes: what is worth saying of it once.
    """

    path: Path
    kind: Literal["image", "video"]
    width: int
    height: int
    fps: Fraction
    frames: int
    skip: int = 0
    has_audio: bool = False
    notes: tuple[str, ...] = ()

    def default_out(self, done: str) -> Path:
        """Where the result goes when nothing is said: clip.mp4 becomes clip-edited.mp4, in the folder one is in."""
        return Path(f"{self.path.stem}-{done}{'.png' if self.kind == 'image' else '.mp4'}")


def request_of(
    prompt: str, shape: Shape, sampling: Sampling, defaults: Defaults, outputs: Outputs = "both"
) -> ClipRequest:
    """The request for a clip from text alone; a command puts in what it is given with `dataclasses.replace`.

    RequestError as ClipRequest, naming flag, value and remedy.
    """
    return ClipRequest(
        prompt=prompt,
        negative_prompt=sampling.negative_prompt,
        width=shape.width,
        height=shape.height,
        frames=shape.frames,
        fps=shape.fps,
        steps=defaults.steps if sampling.steps is None else sampling.steps,
        sampler=sampling.sampler or defaults.sampler,
        guidance=defaults.guidance if sampling.guidance is None else sampling.guidance,
        audio_guidance=defaults.audio_guidance if sampling.audio_guidance is None else sampling.audio_guidance,
        shift=defaults.shift if sampling.shift is None else sampling.shift,
        seed=sampling.seed,
        variations=sampling.variations,
        outputs=outputs,
    )


def read_source(
    path: Path,
    defaults: Defaults,
    fps: str | None = None,
    start: str | None = None,
    seconds: str | None = None,
    longest: float | None = LONGEST_SECONDS,
) -> SourceFile:
    """The file at the working rate (--fps, else its own; of a variable rate its average), from --from for --seconds.

    A picture is one frame. RequestError for what cannot be decoded, a part outside the file, and a file that lasts
    more than `longest` seconds of which no part is asked for.
    """
    rate = parse_number("--fps", fps, "16 or 30000/1001") if fps is not None else None
    if kind_of(path) == "image":
        if start is not None or seconds is not None:
            raise RequestError(f"'{path}' is a picture, of which no part is taken; drop --from and --seconds")
        width, height = probe_image(path)
        return SourceFile(path, "image", width, height, rate or defaults.fps, 1)
    facts = probe_video(path)
    begin = Fraction(0) if start is None else parse_start("--from", start, "2 or 1.5")
    left = facts.seconds - begin
    if left <= 0:
        raise RequestError(f"--from {start}: '{path}' lasts {float(facts.seconds):.2f} s; begin earlier")
    if seconds is None and longest is not None and left > longest:
        raise RequestError(
            f"'{path}' lasts {float(facts.seconds):.1f} s, more than {longest:g} s; take a part of it with "
            "--from and --seconds"
        )
    wanted = left if seconds is None else parse_number("--seconds", seconds, "5 or 2.5")
    if wanted > left + 1 / facts.fps:  # a frame's tolerance: containers round their lengths
        rest = f"has {float(left):.2f} s" if start is None else f"has {float(left):.2f} s from --from {start} on"
        raise RequestError(f"--seconds {seconds}: '{path}' {rest}; ask for no more")
    own = rate or facts.fps
    skip = round(begin * own)
    whole = facts.frames if own == facts.fps else round(facts.seconds * own)
    frames = max(1, min(round(wanted * own), whole - skip))
    uneven = f"'{path}' has a variable frame rate; it is read at {float(own):g} frames a second"
    notes = (uneven,) if facts.variable else ()
    return SourceFile(path, "video", facts.width, facts.height, own, frames, skip, facts.has_audio, notes)


def source_shape(source: SourceFile, size: str | None, folder: ModelFolder) -> Shape:
    """What the model works at for this file: --size, else about the model's own area with the file's proportions."""
    width, height = parse_size(size) if size is not None else folder.size_like(source.width, source.height)
    return Shape(width, height, source.frames, source.fps)


def canvas_for(width: int, height: int, out: Path) -> tuple[Canvas, tuple[str, ...]]:
    """The canvas of that size in a file of the output's format, and what is worth saying where it becomes smaller."""
    chosen = output_format(out)
    if not chosen.muxer or not (width % 2 or height % 2):
        return Canvas(width, height), ()
    even = width // 2 * 2, height // 2 * 2
    cut = f"{width}x{height} is cut to {even[0]}x{even[1]} at the right and the bottom; a PNG folder keeps it"
    return Canvas(*even), (f"{chosen.name} holds even sizes only: {cut}",)


def outputs_for(out: Path, only: Literal["video", "audio", "still"] | None) -> Outputs:
    """What is made: as --only says, else as the output's suffix can hold."""
    implied: dict[str, Outputs] = {".wav": "audio", ".png": "still"}
    by_suffix = implied.get(out.suffix.lower())
    if only is None:
        return by_suffix or "both"
    if by_suffix not in (None, only):
        raise RequestError(f"--only {only} does not fit into the output '{out}'; choose another suffix")
    return only


def outputs_of_source(source: SourceFile, out: Path, only: Literal["video", "audio", "still"] | None) -> Outputs:
    """What is made of a file: a still of a picture, a clip of a clip; --only and the output's suffix as in any command.

    RequestError where a clip of several frames would become a still, or a sound alone, without a look at the picture.
    """
    outputs = outputs_for(out, only)
    if outputs == "audio":
        raise RequestError(
            f"the output '{out}' would be a sound alone, which does not come of '{source.path}'; "
            f"make sound for its picture with `sky4 generate --video {source.path}`"
        )
    if source.kind == "image" and outputs == "both":
        return "still"
    if outputs == "still" and source.frames > 1:
        raise RequestError(
            f"the output '{out}' holds one frame and '{source.path}' has {source.frames}; "
            "name a clip such as .mp4, or a folder, with -o"
        )
    return outputs
