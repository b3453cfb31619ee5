"""One request for every task: what is wanted, what is given, and how to sample. No torch, no weights.

A task is a value: `sources` say which pixels are given and where they lie, `video` and `audio` a whole modality that is
given and drives the other, `references` what the prompt speaks of. None of them: the clip is made from text alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

from sky4.config import config_from_dict, config_to_dict
from sky4.errors import RequestError
from sky4.media import Soundtrack
from sky4.media.masks import EditRegion
from sky4.pipeline.refinement import Refinement
from sky4.pipeline.speakers import Speaker, check_driving
from sky4.prompting.references import ReferenceFile, kind_of
from sky4.shots.kinds import Content

Outputs = Literal["both", "video", "audio", "still"]
Sampler = Literal["euler", "heun", "unipc"]

VERSION = 1  # of the recipe's request; raised when a field changes its meaning
MAX_FRAMES = 4096
MAX_JOINED_FRAMES = 65_536  # of a clip made in windows, which never lies in memory whole
MAX_SIDE = 8192


@dataclass(frozen=True)
class Source:
    """Given pixels: a picture (one frame) or `frames` of a video, laid over the clip from `start` on.

    start: a pixel frame; negative counts from the clip's end. flag: what the user calls it, for messages. skip: so many
    frames at the video's head, at the clip's rate, are left out. region: which pixels are made anew; None: none.
    """

    path: Path
    flag: str
    start: int = 0
    frames: int = 1
    skip: int = 0
    region: EditRegion | None = None

    @property
    def is_picture(self) -> bool:
        return self.frames == 1 and kind_of(self.path) != "video"


@dataclass(frozen=True)
class Canvas:
    """The frame, in pixels, that made frames are laid into, scaled; what is kept of a source keeps its own pixels."""

    width: int
    height: int


@dataclass(frozen=True)
class Segments:
    """The clip is made in windows of `frames` pixel frames, each keeping `overlap` frames of what was there before.

    Windows follow each other from the clip's start, or from the end of a source that gives its start whole. backward:
    each lies before the last one, from the start of a source that gives the clip's end, towards the clip's start.
    transition: how what is made first begins, as another shot than the source; none: it goes on.
    anchored: key frames come first: each window but the first ends on what it would end on had it begun with the
    clip's first picture, so that who is seen stays who it is however many windows there are.
    """

    frames: int
    overlap: int
    backward: bool = False
    transition: Content | Literal["none"] = "none"
    anchored: bool = False

    def __post_init__(self) -> None:
        _within("--overlap", "number of kept frames", self.overlap, 1, MAX_FRAMES - 1)
        _within("--window", "number of frames of a window", self.frames, 2, MAX_FRAMES)
        _require(
            self.overlap < self.frames,
            f"--overlap {self.overlap} leaves nothing to make of --window {self.frames}; lower one or raise the other",
        )
        _one_of("--transition", self.transition, ("none", *get_args(Content)))
        _require(
            self.transition == "none" or not self.backward,
            f"--transition {self.transition} is for what follows a clip; drop --backward",
        )
        plain = not self.backward and self.transition == "none"
        _require(plain or not self.anchored, "--anchors are for one shot that begins with a picture; drop --anchors")


@dataclass(frozen=True)
class ClipRequest:
    """Everything that decides a clip but the weights. Raises RequestError, naming flag, value and remedy.

    width, height: pixels. frames: pixel frames at fps; the model makes the next 4n+1 and the rest is cut off.
    """

    prompt: str
    width: int
    height: int
    frames: int
    fps: Fraction
    steps: int
    guidance: float
    audio_guidance: float
    shift: float
    sampler: Sampler = "euler"
    negative_prompt: str = ""
    seed: int = 0
    variations: int = 1
    outputs: Outputs = "both"
    sources: tuple[Source, ...] = ()
    video: Path | None = None
    audio: Path | None = None
    references: tuple[ReferenceFile, ...] = ()
    enhanced_from: str = ""
    canvas: Canvas | None = None
    segments: Segments | None = None
    soundtrack: Soundtrack | None = None
    refinement: Refinement | None = None
    speakers: tuple[Speaker, ...] = ()

    def __post_init__(self) -> None:
        told = bool(self.prompt.strip()) or self.gives_all
        _require(told, "--prompt is empty; describe the clip in a sentence")
        for flag, text in (("--prompt", self.prompt), ("--negative-prompt", self.negative_prompt)):
            _require(_is_text(text), f"{flag} holds bytes that are no UTF-8 text; type it anew")
        _within("--size", "width", self.width, 1, MAX_SIDE)
        _within("--size", "height", self.height, 1, MAX_SIDE)
        longest = MAX_FRAMES if self.segments is None else MAX_JOINED_FRAMES
        _within("--frames", "number of frames", self.frames, 1, longest)
        _within("--steps", "number of steps", self.steps, 1, 1000)
        _within("--seed", "seed", self.seed, 0, 2**63 - 1)
        _within("--variations", "number of variations", self.variations, 1, 10_000)
        _require(0 < self.fps <= 240, f"--fps {self.fps} is outside 0 to 240 frames a second; 16 is usual")
        for flag, weight in (("--guidance", self.guidance), ("--audio-guidance", self.audio_guidance)):
            sound = math.isfinite(weight) and 0 <= weight <= 100
            _require(sound, f"{flag} {weight} is not a weight from 0 to 100; 1 is no guidance, 3 to 7 are usual")
        good = math.isfinite(self.shift) and 0 < self.shift <= 100
        _require(good, f"--shift {self.shift} is outside 0 to 100; 1 is no shift")
        _one_of("--sampler", self.sampler, get_args(Sampler))
        _one_of("--only", self.outputs, get_args(Outputs))
        self._check_combination()

    def _check_combination(self) -> None:
        given = [source.flag for source in self.sources]
        if self.video is not None:
            _require(not given, f"--video gives every frame already; drop {' and '.join(given)}")
            _require(self.wants_audio, f"--video asks for its sound, --only {self.outputs} for none; drop one of them")
        check_driving(self)
        if self.soundtrack is not None:
            self._check_soundtrack(self.soundtrack)
        if self.refinement is not None:
            self._check_refine(self.refinement)
        if self.outputs == "audio":
            _require(not given, f"{' and '.join(given)} cannot shape a sound alone; drop --only audio")
        if self.outputs == "still":
            _require(self.frames == 1, f"--only still makes 1 frame, got {self.frames}; drop --frames and --seconds")
        if self.frames == 1:
            _require("--last-image" not in given, "--last-image needs a clip of 2 frames or more; raise --frames")
        if self.segments is not None and self.segments.anchored:
            first = any(source.is_picture and self.start_of(source) == 0 for source in self.sources)
            _require(self.driven and first, "--anchors need a sound that drives and a first picture: give --image too")
        for source in self.sources:
            start = self.start_of(source)
            _require(
                start >= 0 and source.frames >= 1 and source.skip >= 0 and start + source.frames <= self.frames,
                f"{source.flag} {source.path} reaches outside the clip's {self.frames} frames",
            )
        if self.negative_prompt:
            weights = [self.guidance] * (self.outputs != "audio") + [self.audio_guidance] * self.wants_audio
            _require(
                any(weight != 1 for weight in weights),
                "--negative-prompt does nothing at a guidance of 1; raise --guidance or drop it",
            )
        if self.canvas is not None:
            _within("--pad", "canvas's width", self.canvas.width, 1, MAX_SIDE)
            _within("--pad", "canvas's height", self.canvas.height, 1, MAX_SIDE)
        edited = [source.flag for source in self.sources if source.region is not None]
        _require(self.canvas is not None or not edited, f"{' and '.join(edited)}: a region needs a canvas to lie on")
        _require(
            self.segments is None or not edited,
            f"{' and '.join(edited)}: a region is made anew in one window; take a shorter part of the clip",
        )
        names = [reference.name for reference in self.references]
        twice = next((name for name in names if names.count(name) > 1), None)
        _require(twice is None, f"--ref {twice} is given twice; choose another name for one of them")
        both = next((name for name in self.mask_names if name in names), None)
        _require(both is None, f"--mask {both} and --ref {both} have one name; choose another for one of them")

    def _check_refine(self, refinement: Refinement) -> None:
        _require(
            self.wants_video, f"{refinement.flag} needs a picture, and the output is a sound alone; drop one of them"
        )
        _within(refinement.flag, "width", refinement.width, 1, MAX_SIDE)
        _within(refinement.flag, "height", refinement.height, 1, MAX_SIDE)
        refinement.check_above(self.width, self.height, "the picture that is refined")
        still = "of one picture there are no frames to put more between"
        kept = "kept frames have the source's own rate; use `sky4 refine` on the result for twice as many"
        for holds, why in ((self.frames > 1, still), (self.canvas is None and self.segments is None, kept)):
            _require(
                refinement.rate == 1 or holds, f"{refinement.flag} at {float(self.fps * 2):g} frames a second: {why}"
            )
        _require(
            self.video is None or not refinement.keyframes,
            "--keyframes: the picture is given as --video; make its sound first, then use `sky4 refine` on the result",
        )

    def _check_soundtrack(self, soundtrack: Soundtrack) -> None:
        if soundtrack.mix or (self.segments is not None and self.wants_audio):
            fits, made = self.outputs == "both", "adds the made sound"
        else:
            fits, made = self.outputs == "video", "keeps the source's sound, so that none is made"
        _require(fits, f"{soundtrack.flag} {made}, and --only asks for something else; drop one of them")
        _require(not self.driven, f"{self.driving} is heard as it is; drop {soundtrack.flag}")

    @property
    def driven(self) -> bool:
        """Whether given sounds drive the picture."""
        return self.audio is not None or bool(self.speakers)

    @property
    def driving(self) -> str:
        """The flag of what drives the picture."""
        return "--speaker" if self.audio is None else "--audio"

    @property
    def wants_audio(self) -> bool:
        """Whether made sound is written."""
        return self.outputs in ("both", "audio")

    @property
    def wants_video(self) -> bool:
        """Whether pictures are written."""
        return self.outputs != "audio"

    @property
    def gives_all(self) -> bool:
        """Whether a source gives every pixel of every frame and no sound is made: what is left is to refine it."""
        return self.given_whole is not None and not self.wants_audio and not self.driven

    @property
    def only_refines(self) -> bool:
        """Whether the base model has nothing to make, not even keyframes of a given clip."""
        return self.gives_all and not self.keyed

    @property
    def keyed(self) -> bool:
        """Whether the base model makes keyframes."""
        return self.refinement is not None and bool(self.refinement.keyframes)

    @property
    def samples(self) -> bool:
        """Whether the base model makes anything: sound, keyframes, or frames that no source gives."""
        return self.wants_audio or self.keyed or (self.video is None and self.given_whole is None)

    @property
    def given_whole(self) -> Source | None:
        """The source that gives every pixel of every frame, where one does."""
        return next((one for one in self.sources if one.region is None and one.frames == self.frames), None)

    @property
    def shows_given(self) -> bool:
        """Whether what is shown are given frames themselves, at most refined."""
        return self.video is not None or (self.gives_all and self.canvas is None)

    @property
    def out_fps(self) -> Fraction:
        """Of the written picture."""
        return self.fps * (1 if self.refinement is None else self.refinement.rate)

    @property
    def out_frames(self) -> int:
        """Of the written picture, which lasts as long at any rate, as its sound does: where 241 frames become 481 at
        twice the rate, since a codec makes 4n + 1, the last one is shown twice (MadeWindow.shown)."""
        return self.frames * (1 if self.refinement is None else self.refinement.rate)

    @property
    def runs_video(self) -> bool:
        """Whether the video tower runs, be it to be heard by the audio tower alone."""
        return self.wants_video or self.video is not None

    @property
    def runs_audio(self) -> bool:
        """Whether the audio tower runs."""
        return self.wants_audio or self.driven

    def start_of(self, source: Source) -> int:
        """The frame of the clip on which a source begins."""
        return source.start if source.start >= 0 else self.frames + source.start

    @property
    def seconds(self) -> Fraction:
        return self.frames / self.fps

    @property
    def mask_names(self) -> tuple[str, ...]:
        """What the prompt may call parts of what is made anew, without the @."""
        return tuple(name for source in self.sources if source.region for name in source.region.names)

    @property
    def names(self) -> tuple[str, ...]:
        """Every @name that the prompt may use."""
        return tuple(reference.name for reference in self.references) + self.mask_names

    def variation(self, index: int) -> ClipRequest:
        """The request for clip `index` of the variations alone: the same latents as among its siblings."""
        return replace(self, seed=self.seed + index, variations=1)

    def files(self) -> list[tuple[str, Path]]:
        """Every input file with the flag that named it."""
        files = [(source.flag, source.path) for source in self.sources]
        regions = [source.region for source in self.sources if source.region is not None]
        files += [("--mask", mask.path) for region in regions for mask in region.files]
        files += [("--video", self.video)] if self.video else []
        files += [("--audio", self.audio)] if self.audio else []
        for speaker in self.speakers:
            files += [(speaker.flag, path) for path in (speaker.path, *(mask.path for mask in speaker.region.files))]
        files += [(self.soundtrack.flag, self.soundtrack.path)] if self.soundtrack else []
        return files + [(f"--ref {reference.name}", reference.path) for reference in self.references]

    def to_dict(self) -> dict[str, Any]:
        """JSON values that `from_dict` turns back into an equal request; paths are made absolute."""
        return {"version": VERSION, **_with_plain_paths(config_to_dict(self))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClipRequest:
        """The request of a recipe. RequestError for another version, unknown, missing or malformed values."""
        version = values.get("version")
        if version != VERSION:
            raise RequestError(f"the recipe's request has version {version!r}, this sky4 reads {VERSION}; update sky4")
        try:
            return config_from_dict(cls, _with_paths({k: v for k, v in values.items() if k != "version"}), "request")
        except ValueError as error:
            raise RequestError(f"the recipe cannot be read: {error}; update sky4, or the file was edited") from error


PATH_KEYS = ("path", "video", "audio")  # of the request and of what it holds


def _with_plain_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_plain_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_plain_paths(item) for item in value]
    return str(value.absolute()) if isinstance(value, Path) else value


def _with_paths(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _with_paths(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_paths(item) for item in value]
    return Path(value) if key in PATH_KEYS and isinstance(value, str) else value


def _is_text(text: str) -> bool:
    """Whether it is text: bytes of the command line that are no UTF-8 arrive as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise RequestError(message)


def _within(flag: str, what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        nearest = min(max(value, low), high)
        raise RequestError(f"{flag}: the {what} {value} is outside {low} to {high}; nearest: {nearest}")


def _one_of(flag: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise RequestError(f"{flag} {value} is unknown; choose one of {', '.join(known)}")
