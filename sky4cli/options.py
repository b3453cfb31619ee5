"""What several commands share: how options are read, and the options themselves. Strings become values here."""

from __future__ import annotations

import sys
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sky4.distributed.meeting import meeting
from sky4.errors import RequestError

if TYPE_CHECKING:
    from sky4.media import Provenance, Soundtrack
    from sky4.pipeline.request import Outputs

Model = Annotated[
    Path | None, typer.Option("--model", metavar="FOLDER", help="Model folder. Default: the bundled tiny model.")
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 ... or auto.")]
Dtype = Annotated[
    str, typer.Option("--dtype", help="float32, bfloat16, float16 or auto; int8, fp8: so many bits for weights.")
]
Backend = Annotated[
    str,
    typer.Option(
        "--attention-backend", help="auto, cuda, cpu, torch or reference; `sky4 doctor` tells which are here."
    ),
]
MOST_PROMPT = 2**16  # characters: far more than any model reads


def from_stdin(prompt: str | None) -> str | None:
    """`--prompt -` reads stdin to its end."""
    if prompt != "-":
        return prompt
    if sys.stdin is None or sys.stdin.isatty():
        raise RequestError("--prompt - reads the prompt from a pipe, and stdin is a terminal; pipe it in or type it")
    read, met = partial(sys.stdin.read, MOST_PROMPT + 1), meeting()
    text = read() if met is None else met.told("prompt", read)
    if len(text) > MOST_PROMPT:
        raise RequestError(f"--prompt -: stdin holds more than {MOST_PROMPT} characters; give a shorter prompt")
    return text.strip()


Prompt = Annotated[
    str,
    typer.Option(
        "--prompt", metavar="TEXT", callback=from_stdin, help="What is seen and heard; - reads it from stdin."
    ),
]
Instruction = Annotated[
    str,
    typer.Option(
        "--prompt", metavar="TEXT", callback=from_stdin, help="What to change, as an instruction; - reads stdin."
    ),
]
NegativePrompt = Annotated[str, typer.Option("--negative-prompt", metavar="TEXT", help="What to avoid.")]
Ref = Annotated[
    list[str] | None,
    typer.Option("--ref", metavar="NAME=PATH", help="A picture, video or sound that the prompt calls @NAME."),
]
Out = Annotated[
    Path,
    typer.Option(
        "-o",
        "--out",
        metavar="PATH",
        help="Output: .mp4 .mov .mkv .webm .wav .png, or a name without suffix for a folder of PNG pictures.",
    ),
]
Size = Annotated[str | None, typer.Option("--size", metavar="WxH", help="Pixels, such as 64x64.")]
Seconds = Annotated[str | None, typer.Option("--seconds", metavar="S", help="Length of the clip.")]
Frames = Annotated[int | None, typer.Option("--frames", metavar="N", help="Length in frames instead.")]
Fps = Annotated[str | None, typer.Option("--fps", metavar="R", help="Frames a second: 16, 30000/1001.")]
From = Annotated[str | None, typer.Option("--from", metavar="S", help="Where the part begins, in seconds.")]
PartSeconds = Annotated[str | None, typer.Option("--seconds", metavar="S", help="Length of the part.")]
SourceFps = Annotated[
    str | None, typer.Option("--fps", metavar="R", help="Frames a second: 16, 30000/1001. Default: the file's own.")
]
Steps = Annotated[int | None, typer.Option("--steps", metavar="N", help="Sampling steps.")]
Sampler = Annotated[
    Literal["euler", "heun", "unipc"] | None, typer.Option("--sampler", help="unipc wants fewer steps.")
]
Guidance = Annotated[
    float | None, typer.Option("--guidance", metavar="W", help="Weight of the prompt in the picture; 1 is none.")
]
AudioGuidance = Annotated[
    float | None, typer.Option("--audio-guidance", metavar="W", help="Weight of the prompt in the sound.")
]
Shift = Annotated[
    float | None, typer.Option("--shift", metavar="X", help="Above 1: more of the steps where noise is strong.")
]
Seed = Annotated[int, typer.Option("--seed", help="The same seed makes the same clip.")]
Variations = Annotated[
    int, typer.Option("-n", "--variations", metavar="N", help="So many clips, with seeds from --seed on.")
]
Only = Annotated[
    Literal["video", "audio", "still"] | None,
    typer.Option("--only", help="Make this alone; -o x.wav means audio, -o x.png a still."),
]
Enhance = Annotated[
    Path | None,
    typer.Option("--enhance", metavar="FOLDER", help="Let this instruction model rewrite the prompt first."),
]
KeepAudio = Annotated[bool, typer.Option("--keep-audio", help="Keep the source's sound byte for byte; none is made.")]
Mix = Annotated[
    float | None,
    typer.Option("--mix", metavar="GAIN", help="Keep the source's sound and add the made one: 1 as it is, 0.3 lower."),
]
EncodeAudio = Annotated[
    bool,
    typer.Option(
        "--encode-audio", help="Encode the source's sound anew too, where its packets cannot be gone on from."
    ),
]
ResumeDir = Annotated[
    Path | None,
    typer.Option("--resume-dir", metavar="FOLDER", help="Keep the state here while a clip is made, to go on from it."),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the state in --resume-dir, to the same bits; without one, begin.")
]
Events = Annotated[
    str | None,
    typer.Option("--events", metavar="FILE|-|fd:N", help="Tell programs what happens, in lines of JSON."),
]
PreviewEvery = Annotated[
    int | None,
    typer.Option("--preview-every", metavar="N", help="After every N steps, a contact sheet: OUT.preview.png."),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory", metavar="SIZE", help="Stay within this, such as 12G, by what is offloaded and in which dtype."
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Tell what it would take, stage by stage, and make nothing; loads no weights.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
Json = Annotated[bool, typer.Option("--json", help="End with one line of JSON on stdout, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]
NoMetadata = Annotated[bool, typer.Option("--no-metadata", help="Leave the recipe out of the file.")]
Sidecar = Annotated[
    bool, typer.Option("--sidecar", help="Write the recipe beside the file as well, such as clip.mp4.json.")
]
C2pa = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        "--c2pa",
        metavar="CERT KEY",
        help="Sign Content Credentials with a certificate chain and its key, both PEM. Needs c2pa-python.",
    ),
]


def provenance_of(no_metadata: bool, sidecar: bool, c2pa: tuple[Path, Path] | None) -> Provenance:
    """Where the recipe goes, and who signs, as --no-metadata, --sidecar and --c2pa say."""
    from sky4.media import Credentials, Provenance

    return Provenance(not no_metadata, sidecar, None if c2pa is None else Credentials(*c2pa))


def soundtrack_of(
    source: Path, skip_seconds: Fraction, keep_audio: bool, mix: float | None, outputs: Outputs
) -> tuple[Soundtrack | None, Outputs]:
    """What --keep-audio and --mix ask of the source, and what is then made: no sound beside one that is kept.

    RequestError where both are given, or where there is no sound to keep.
    """
    from dataclasses import replace

    from sky4.media import Soundtrack, probe_video

    if not keep_audio and mix is None:
        return None, outputs
    if keep_audio and mix is not None:
        raise RequestError(f"--keep-audio and --mix {mix} are both given; drop --mix to keep the sound unchanged")
    track = Soundtrack(source, skip_seconds)
    if mix is not None:
        if mix == 0:
            raise RequestError("--mix 0 adds nothing to the source's sound; use --keep-audio to keep it as it is")
        track = replace(track, mix=mix)
    if not probe_video(source).has_audio:
        raise RequestError(f"{track.flag}: '{source}' holds no sound; drop {track.flag}, and the sound is made")
    return track, "video" if keep_audio and outputs == "both" else outputs


def parse_size(text: str) -> tuple[int, int]:
    """'1280x720' to (1280, 720)."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise RequestError(f"--size {text}: expected WIDTHxHEIGHT in pixels, for example 64x64")
    return int(width), int(height)


def parse_number(flag: str, text: str, example: str) -> Fraction:
    """A number above 0, exactly: '16', '29.97' or '30000/1001'."""
    value = _fraction(flag, text, example)
    if value <= 0:
        raise RequestError(f"{flag} {text}: must be above 0, for example {example}")
    return value


def parse_start(flag: str, text: str, example: str) -> Fraction:
    """A number of seconds, 0 or more, exactly."""
    value = _fraction(flag, text, example)
    if value < 0:
        raise RequestError(f"{flag} {text}: must be 0 or more, for example {example}")
    return value


SIZES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_memory(text: str | None) -> int | None:
    """'12G', '800M', '1.5GiB' to bytes; G is 1024 M. RequestError for anything else."""
    if text is None:
        return None
    short = text.strip().upper().removesuffix("B").removesuffix("I")
    try:
        size = round(Fraction(short[:-1]) * SIZES[short[-1:]])
    except (KeyError, ValueError, ZeroDivisionError):
        raise RequestError(f"--memory {text}: expected a size such as 12G or 800M") from None
    if not 2**20 <= size < 2**60:
        raise RequestError(f"--memory {text}: must be at least 1M, for example 12G")
    return size


def _fraction(flag: str, text: str, example: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise RequestError(f"{flag} {text}: expected a number such as {example}") from None
