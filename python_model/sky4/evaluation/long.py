"""Clips of several shots: is the transition that was asked for there, and is it the subject that was asked for?

A held-out story's first shot is given as a file, and the next one asked for as `sky4 extend --transition` does; the
shot detector looks at the whole. Its own figures on stories as drawn stand beside, and those of talking heads
(evaluation/avatars.py). F frames, H = W = size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sky4.conditioning.reprojection import VIEWS, guess_shot
from sky4.encoders.another_shot import decoded_alone, encoded_alone, encoded_still
from sky4.evaluation.avatars import AvatarJudged, AvatarMeasure, avatar_measure
from sky4.evaluation.given_clip import given_clip
from sky4.evaluation.shot_peers import PeerScore, peer_scores
from sky4.evaluation.task_sheet import SheetLine, sheet_line, task_sheet
from sky4.evaluation.world import Progress, decoded, recoded_frames
from sky4.pipeline.clip import Clip
from sky4.pipeline.components import Components
from sky4.pipeline.generate import generate_clip
from sky4.pipeline.given import to_pixels
from sky4.pipeline.request import Canvas, ClipRequest, Segments, Source
from sky4.pipeline.windows import to_frames
from sky4.shots.detector import Transition, detect
from sky4.shots.kinds import CONTENTS, Content
from sky4.shots.network import ShotNetwork
from sky4.shots.words import switched
from sky4.world.instructions import take_caption
from sky4.world.judge import Verdict
from sky4.world.lexicon import Language
from sky4.world.render import render_video
from sky4.world.shot_truth import SEED, score_stories
from sky4.world.stories import GRID, Story, sample_story
from sky4.world.take import Take
from sky4.world.vocabulary import COLOURS

Frames = NDArray[np.uint8]

NEAR = 2  # frames about the seam in which the transition has to be found
DETECTED = range(5000, 5048)  # stories that the detector itself is measured on
SAME: tuple[Content, ...] = ("cut-in", "cut-out", "multi-angle")  # transitions after which the same subject is seen
LIKE = 0.35  # share of the subject's colour in the truth that has to be there
APART = 60.0  # levels of 255: a pixel so near to a colour has it
GUESS = 1 / len(CONTENTS)


@dataclass(frozen=True)
class LongCase:
    """One shot to be made behind another. given: frames of the first shot, `request.frames` in all."""

    kind: Content
    story: Story
    prompt: str
    request: ClipRequest
    given: int

    def truth(self) -> Frames:
        """The whole story [F, H, W, 3]."""
        return to_frames(render_video([self.story], self.request.frames, self.request.fps, self.request.width))


def long_case(kind: Content, index: int, request: ClipRequest, step: int = 4) -> LongCase:
    """Case number `index` of a transition; request: size, rate, frames and sampling. step: frames of a latent one.

    ValueError for a clip that is too short for two shots.
    """
    steps = round((request.frames - 1) // step // 2 * step / request.fps / GRID)
    story = sample_story(
        SEED ^ 0x1046,
        index * len(CONTENTS) + CONTENTS.index(kind),
        "heldout",
        seconds=float(request.seconds),
        shots=2,
        contents=(kind,),
        opticals=("cut",),
        first=steps,
    )
    language: Language = "zh" if index % 4 == 3 else "en"
    random = np.random.default_rng([SEED, index, CONTENTS.index(kind)])
    text = take_caption(story.takes[1], language, random)
    given = ceil(story.joins[0].begin * request.fps)
    return LongCase(kind, story, switched(text, kind, random), request, given)


Maker = Callable[[int, LongCase], Frames]


def render_maker() -> Maker:
    """The truth itself."""
    return lambda number, case: case.truth()


def codec_maker(components: Components) -> Maker:
    """The truth through the picture's codec, each shot by itself, as made ones are decoded."""

    def make(number: int, case: LongCase) -> Frames:
        shots, codec = np.split(case.truth(), [case.given]), components.video_codec
        with torch.inference_mode():
            latents = encoded_alone(to_pixels(shots[1]).to(components.device), codec)
            behind = [to_frames(chunk) for chunk in decoded_alone(latents, codec)]
        return np.concatenate((recoded_frames(shots[0], components), *behind))

    return make


def guess_maker(components: Components) -> Maker:
    """The first guess at the second shot by itself, which stands still: what a model that only takes it over makes."""

    def make(number: int, case: LongCase) -> Frames:
        codec, truth = components.video_codec, case.truth()
        first = to_pixels(truth[: case.given]).to(components.device)
        latents = -(-(len(truth) - case.given) // codec.temporal_compression)
        with torch.inference_mode():
            guess = guess_shot(first, [case.kind], partial(encoded_still, codec=codec))
            shown = decoded_alone(guess.latents.expand(-1, -1, latents, -1, -1), codec)
            behind = [to_frames(chunk) for chunk in shown]
        return np.concatenate((truth[: case.given], *behind))[: len(truth)]

    return make


def model_maker(components: Components, keep: Callable[[int, Clip], None] | None = None) -> Maker:
    """What a model makes behind the first shot, which is given as a file."""

    def make(number: int, case: LongCase) -> Frames:
        with given_clip(case.truth()[: case.given], case.request, components) as first:
            clip = generate_clip(extended(case, first, components.folder.temporal_compression), components)
            if keep is not None:
                keep(number, clip)
            return decoded(clip)[0]

    return make


def extended(case: LongCase, first: Source, step: int) -> ClipRequest:
    """The request of `sky4 extend FIRST --transition KIND`, silent: all that is given is kept, in one window."""
    request = case.request
    window = -(-(request.frames - 1) // step) * step + 1
    return replace(
        request,
        prompt=case.prompt,
        outputs="video",
        sources=(first,),
        canvas=Canvas(request.width, request.height),
        segments=Segments(window, case.given, transition=case.kind),
    )


@dataclass(frozen=True)
class LongJudged:
    """switched: a cut is found at the seam; told: its kind; subject: the colour that was asked for is there."""

    case: LongCase
    switched: bool
    told: Content | None
    subject: bool
    others: int  # transitions found elsewhere
    line: SheetLine
    guessed: bool | None = None  # whether the first guess by itself is told as what was asked; None where there is none

    @property
    def right(self) -> bool:
        return self.told == self.case.kind


@dataclass(frozen=True)
class LongMeasure:
    """Shares of the cases of one transition."""

    kind: str
    switched: float
    kind_found: float
    subject: float
    others: float  # transitions elsewhere, a clip
    guessed: float | None  # kind_found of the first guess by itself, where there is one
    count: int
    chance: float = GUESS


@dataclass(frozen=True)
class LongEvaluation:
    """All cases, the detector on stories as they are drawn with others beside it, and the talking heads."""

    judged: list[LongJudged]
    detector: dict[str, Any]
    peers: list[PeerScore]
    avatars: list[AvatarJudged]

    @property
    def table(self) -> list[LongMeasure]:
        kinds = dict.fromkeys(one.case.kind for one in self.judged)
        return [_measure(kind, [one for one in self.judged if one.case.kind == kind]) for kind in kinds]

    @property
    def identity(self) -> float | None:
        """Where the same subject is to be seen in both shots, the share in which it is; None without such cases."""
        kept = [one.subject for one in self.judged if one.case.kind in SAME]
        return float(np.mean(kept)) if kept else None

    @property
    def heads(self) -> AvatarMeasure | None:
        return avatar_measure(self.avatars) if self.avatars else None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        cases = [
            {
                "task": one.case.kind,
                "index": one.case.story.index,
                "prompt": one.case.prompt,
                "switched": one.switched,
                "told": one.told,
                "subject": one.subject,
                "others": one.others,
            }
            for one in self.judged
        ]
        return {
            "transitions": [asdict(line) for line in self.table],
            "identity": self.identity,
            "avatars": None if self.heads is None else self.heads.to_dict(),
            "detector": {**self.detector, "beside": [asdict(peer) for peer in self.peers]},
            "cases": [*cases, *(one.values() for one in self.avatars)],
        }

    def sheet(self) -> Image.Image:
        """The given shot, what was made behind it, and the truth; of heads the portrait, the last second, its truth."""
        return task_sheet([one.line for one in self.judged] + [one.line for one in self.avatars])


def evaluate_long(
    kinds: Sequence[Content],
    cases: int,
    request: ClipRequest,
    make: Maker,
    network: ShotNetwork,
    say: Progress,
    avatars: Sequence[AvatarJudged] = (),
    guess: Maker | None = None,
) -> LongEvaluation:
    """`cases` of each transition, made by `make` and looked at by the detector; request's seed counts up. avatars: what
    was found of talking heads. guess: what the first guess by itself makes, as a control."""
    judged: list[LongJudged] = []
    for kind in kinds:
        for index in range(cases):
            case = long_case(kind, index, replace(request, seed=request.seed + index))
            one = judge_long(case, make(len(judged), case), network)
            if guess is not None and kind in VIEWS:
                one = replace(one, guessed=judge_long(case, guess(len(judged), case), network).right)
            judged.append(one)
            say("judging", len(judged), len(kinds) * cases)
    say("the detector on drawn stories", 0, 1)
    score = score_stories(network, DETECTED)
    peers = peer_scores(DETECTED)
    say("the detector on drawn stories", 1, 1)
    return LongEvaluation(judged, score.to_dict(), peers, list(avatars))


def judge_long(case: LongCase, made: Frames, network: ShotNetwork) -> LongJudged:
    """What the detector says of the whole clip [F, H, W, 3], and whether the asked subject is in its second part."""
    found = list(detect(made, case.request.fps, network))
    near = [one for one in found if abs(one.frame - case.given) <= NEAR]
    at = min(near, key=lambda one: abs(one.frame - case.given), default=None)
    told: Content | None = None if at is None else at.content
    subject = _subject(case, made)
    verdict = Verdict(told == case.kind, subject, told or _instead(at), "", GUESS, 1 / len(COLOURS))
    line = sheet_line(
        case.kind,
        case.prompt,
        [case.truth()[: case.given]],
        None,
        made[case.given :],
        case.truth()[case.given :],
        verdict,
    )
    return LongJudged(case, at is not None, told, subject, len(found) - (at is not None), line)


def _instead(at: Transition | None) -> str:
    return "no transition" if at is None else "no kind"


def _subject(case: LongCase, made: Frames) -> bool:
    """Whether the second shot's own colour covers enough of what is made, beside what it covers in the truth."""
    colour = np.array(COLOURS[_colour(case.story.takes[1])], np.float32)

    def covered(frames: Frames) -> float:
        pixels = frames.astype(np.float32)
        bright = pixels.max(-1, keepdims=True)
        alike = np.abs(pixels / bright.clip(1) - colour / colour.max()).max(-1) < APART / 255
        return float((alike & (bright[..., 0] > 110)).mean())

    return covered(made[case.given :]) >= LIKE * covered(case.truth()[case.given :])


def _colour(take: Take) -> str:
    return take.talker.colour if take.talker is not None else take.things[-1].colour


def _measure(kind: str, judged: Sequence[LongJudged]) -> LongMeasure:
    def share(values: Sequence[bool]) -> float:
        return float(np.mean(values))

    guessed = [one.guessed for one in judged if one.guessed is not None]
    return LongMeasure(
        kind,
        share([one.switched for one in judged]),
        share([one.right for one in judged]),
        share([one.subject for one in judged]),
        float(np.mean([one.others for one in judged])),
        share(guessed) if guessed else None,
        len(judged),
    )
