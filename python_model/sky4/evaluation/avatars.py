"""Talking heads: do the lips follow the sound that drives them, and is it still the same head at the end?

A held-out head's portrait is given as a picture and what it says as a sound, as `sky4 generate --image --audio --drive`
takes them; the whole clip is looked at. F frames, H = W = size.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sky4.evaluation.task_sheet import SheetLine, sheet_line
from sky4.evaluation.world import Progress, recoded_frames
from sky4.media import write_clip
from sky4.pipeline.clip import Clip
from sky4.pipeline.components import Components
from sky4.pipeline.generate import generate_clip
from sky4.pipeline.lips import Lag, LipMeter
from sky4.pipeline.request import ClipRequest, Source
from sky4.pipeline.segments import choose_segments
from sky4.pipeline.windows import to_frames
from sky4.world.families import sample_family
from sky4.world.instructions import take_caption
from sky4.world.judge import Verdict
from sky4.world.render import render_video
from sky4.world.shot_truth import SEED
from sky4.world.sound import render_speech_audio
from sky4.world.speech import sample_speech
from sky4.world.take import Take, talking
from sky4.world.vocabulary import HAIRS, HEAD_COLOURS

Frames = NDArray[np.uint8]
Wave = NDArray[np.float32]

SECONDS = 30
CHANCE = 1 / (len(HEAD_COLOURS) * len(HAIRS))  # of guessing who it is
AT_ONCE = 64  # frames that are rendered, or coded, at once


@dataclass(frozen=True)
class AvatarCase:
    """A head, and what it says: as long as `request` asks for."""

    index: int
    take: Take
    request: ClipRequest

    @property
    def size(self) -> int:
        return self.request.width

    def portrait(self) -> Frames:
        """[H, W, 3]: how the clip begins, with its mouth closed."""
        return np.asarray(to_frames(render_video([self.take], 1, self.request.fps, self.size))[0], np.uint8)

    def wave(self, rate: int) -> Wave:
        """[2, S]."""
        samples = round(self.request.seconds * rate)
        return np.asarray(render_speech_audio([self.take], samples, rate)[0].numpy(), np.float32)

    def truth(self, begin: int = 0) -> Iterator[Frames]:
        """Chunks [f, H, W, 3], from frame `begin` on."""
        for first in range(begin, self.request.frames, AT_ONCE):
            count = min(AT_ONCE, self.request.frames - first)
            time = float(first / self.request.fps)
            yield to_frames(render_video([self.take], count, self.request.fps, self.size, time))


def avatar_case(index: int, request: ClipRequest, seconds: int) -> AvatarCase:
    """Held-out head number `index`; request: size, rate and sampling."""
    take = sample_family(SEED ^ 0xA7A, index, "heldout").takes["face"]
    # without what is said: half a minute of words is more than a text encoder reads
    prompt = take_caption(take, "en", np.random.default_rng([SEED, index]))
    take = talking(take, sample_speech(SEED, index, seconds))
    frames = round(seconds * request.fps)
    return AvatarCase(index, take, replace(request, prompt=prompt, frames=frames, outputs="both"))


AvatarMaker = Callable[[int, AvatarCase], Iterator[Frames]]


def truth_maker() -> AvatarMaker:
    """The truth itself."""
    return lambda number, case: case.truth()


def coded_maker(components: Components) -> AvatarMaker:
    """The truth through the picture's codec, piece by piece."""

    def make(number: int, case: AvatarCase) -> Iterator[Frames]:
        step = components.folder.temporal_compression
        for chunk in case.truth():
            held = np.pad(chunk, ((0, -(len(chunk) - 1) % step), (0, 0), (0, 0), (0, 0)), mode="edge")
            yield recoded_frames(held, components)[: len(chunk)]

    return make


def avatar_maker(components: Components, keep: Callable[[int, Clip], None] | None = None) -> AvatarMaker:
    """What a model makes of portrait and sound: key frames first, in windows."""

    def make(number: int, case: AvatarCase) -> Iterator[Frames]:
        with tempfile.TemporaryDirectory() as folder:
            clip = generate_clip(driven(case, Path(folder), components), components)
            if keep is not None:
                keep(number, clip)
            yield from clip.frames()

    return make


def driven(case: AvatarCase, folder: Path, components: Components) -> ClipRequest:
    """The request of `sky4 generate --image --audio --drive`, its files written into `folder`."""
    model = components.folder
    portrait, speech = folder / "portrait.png", folder / "speech.wav"
    Image.fromarray(case.portrait()).save(portrait)
    write_clip(
        speech, None, case.wave(model.sample_rate), fps=case.request.fps, recipe={}, sample_rate=model.sample_rate
    )
    frames = case.request.frames
    segments = None
    if frames > model.defaults.frames:
        segments = choose_segments("the clip", frames, frames, model, anchored=True)
    return replace(case.request, sources=(Source(portrait, "--image"),), audio=speech, segments=segments)


@dataclass(frozen=True)
class AvatarJudged:
    """lag: None where the clip is too short to tell. same: the head in the last second is nearest to its own among all
    others; likeness: PSNR in dB of the last second's mean picture against the truth's."""

    case: AvatarCase
    lag: Lag | None
    same: bool
    likeness: float
    line: SheetLine

    @property
    def follows(self) -> bool:
        """Whether anything in the picture follows the sound."""
        return self.lag is not None and self.lag.follows

    def values(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "task": "avatar",
            "index": self.case.index,
            "prompt": self.case.request.prompt,
            "lag": None if self.lag is None else self.lag.values(),
            "same": self.same,
            "likeness": round(self.likeness, 3),
        }


@dataclass(frozen=True)
class AvatarMeasure:
    """median_lag: frames, of those in whose picture something follows the sound; None where in none does. follows,
    same: shares; chance: of being the same by guessing."""

    median_lag: float | None
    follows: float
    same: float
    likeness: float
    seconds: float
    count: int
    chance: float = CHANCE

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def evaluate_avatars(
    count: int, request: ClipRequest, make: AvatarMaker, rate: int, say: Progress, seconds: int | None = None
) -> list[AvatarJudged]:
    """`count` heads, made by `make`, who talk for SECONDS if nothing is said; request's seed counts up."""
    judged = []
    for index in range(count):
        case = avatar_case(index, replace(request, seed=request.seed + index), SECONDS if seconds is None else seconds)
        judged.append(judge_avatar(case, make(index, case), rate))
        say("watching heads", index + 1, count)
    return judged


def judge_avatar(case: AvatarCase, made: Iterator[Frames], rate: int) -> AvatarJudged:
    """Of chunks [f, H, W, 3]."""
    meter, second = LipMeter(case.request.fps), round(case.request.fps)
    last: list[Frames] = []
    for chunk in meter.frames(made):
        last = [*last, *chunk][-second:]
    mean = np.stack(last).mean(0)
    truth = np.concatenate(list(case.truth(max(0, case.request.frames - second))))
    error = float(np.square(mean - truth.mean(0)).mean())
    lag, same = meter.lag(case.wave(rate), rate), nearest_head(case, mean)
    follows = lag is not None and lag.follows
    told = "" if lag is None else lag.line()
    verdict = Verdict(follows, same, told, "", 0.0, CHANCE)
    line = sheet_line("avatar", case.request.prompt, [case.portrait()[None]], None, np.stack(last), truth, verdict)
    return AvatarJudged(case, lag, same, 10 * float(np.log10(255**2 / max(error, 1e-6))), line)


def nearest_head(case: AvatarCase, mean: NDArray[np.floating]) -> bool:
    """Whether the mean picture [H, W, 3] of the last second is nearest to its own head among all colours and hairs."""
    talker = case.take.talker
    assert talker is not None
    second = round(case.request.fps)
    begin = float((case.request.frames - second) / case.request.fps)
    best, who = np.inf, ("", "")
    for colour in HEAD_COLOURS:
        for hair in HAIRS:
            other = replace(case.take, talker=replace(talker, colour=colour, hair=hair))
            # two frames are enough: heads differ in what does not move
            shown = to_frames(render_video([other], 2, case.request.fps / second, case.size, begin)).mean(0)
            error = float(np.square(shown - mean).mean())
            if error < best:
                best, who = error, (colour, hair)
    return who == (talker.colour, talker.hair)


def avatar_measure(judged: Sequence[AvatarJudged]) -> AvatarMeasure:
    """Over all heads; ValueError for none."""
    if not judged:
        raise ValueError("at least one head is needed to measure, got none")
    lags = [abs(one.lag.frames) for one in judged if one.lag is not None and one.follows]
    return AvatarMeasure(
        float(np.median(lags)) if lags else None,
        len(lags) / len(judged),
        float(np.mean([one.same for one in judged])),
        float(np.mean([one.likeness for one in judged])),
        float(judged[0].case.request.seconds),
        len(judged),
    )
