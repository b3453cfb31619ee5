"""Classifier-free guidance with a weight for each modality, and guidance by the exchange between them.

v = v_neg + w * (v_pos - v_neg) + x * (v_pos - v_alone), with v_pos and v_neg under the positive and the negative
prompt, v_alone under the positive prompt without the audio-video exchange, w per modality (model.md section 5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from sky4.diffusion.sampler import State, Times, Velocity

Prompt = Literal["positive", "negative"]


class Evaluate(Protocol):
    """The model as guidance sees it: velocities [len(prompts)*B, ...] of a state of as many rows.

    The rows are whole copies of the batch, one per prompt in the order given; exchange=False cuts the towers apart.
    """

    def __call__(self, state: State, times: Times, prompts: tuple[Prompt, ...], *, exchange: bool) -> State: ...


@dataclass(frozen=True)
class Guidance:
    """video, audio: the weights w, 1 = no guidance; exchange: the weight x, 0 = none.

    batched evaluates both prompts in one call of twice the batch; otherwise one after the other, in half the memory.
    """

    video: float = 1.0
    audio: float = 1.0
    exchange: float = 0.0
    batched: bool = False

    def __post_init__(self) -> None:
        for name in ("video", "audio", "exchange"):
            weight = getattr(self, name)
            if not math.isfinite(weight) or weight < 0:
                raise ValueError(f"the {name} guidance must be a number from 0 up, got {weight}")


def guided(evaluate: Evaluate, guidance: Guidance) -> Velocity:
    """The velocity that a sampler integrates. Passes whose weight is nought are not evaluated."""

    def velocity(state: State, times: Times) -> State:
        positive, negative = _both(evaluate, state, times, guidance)
        alone = None
        if guidance.exchange != 0.0 and state[0] is not None and state[1] is not None:
            alone = evaluate(state, times, ("positive",), exchange=False)
        return (
            _combined(positive[0], negative and negative[0], alone and alone[0], guidance.video, guidance.exchange),
            _combined(positive[1], negative and negative[1], alone and alone[1], guidance.audio, guidance.exchange),
        )

    return velocity


def _both(evaluate: Evaluate, state: State, times: Times, guidance: Guidance) -> tuple[State, State | None]:
    video, audio = state
    if (video is None or guidance.video == 1.0) and (audio is None or guidance.audio == 1.0):
        return evaluate(state, times, ("positive",), exchange=True), None
    if not guidance.batched:
        positive = evaluate(state, times, ("positive",), exchange=True)
        return positive, evaluate(state, times, ("negative",), exchange=True)
    twice = evaluate((_twice(video), _twice(audio)), times, ("positive", "negative"), exchange=True)
    (video_positive, video_negative), (audio_positive, audio_negative) = _halves(twice[0]), _halves(twice[1])
    return (video_positive, audio_positive), (video_negative, audio_negative)


def _combined(
    positive: Tensor | None, negative: Tensor | None, alone: Tensor | None, weight: float, exchange: float
) -> Tensor | None:
    if positive is None:
        return None
    total = positive if negative is None else negative + weight * (positive - negative)
    return total if alone is None else total + exchange * (positive - alone)


def _twice(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else torch.cat((tensor, tensor))


def _halves(tensor: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    if tensor is None:
        return None, None
    positive, negative = tensor.chunk(2)
    return positive, negative
