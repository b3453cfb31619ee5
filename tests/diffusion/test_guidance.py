"""Guidance is algebra over the model's passes: every way of evaluating them gives the same velocity."""

import itertools

import pytest
import torch
from torch import Tensor

from sky4.diffusion.guidance import Guidance, Prompt, guided
from sky4.diffusion.sampler import State, Times

TIMES = (0.25, 0.5)


class Recorder:
    """A model whose velocities depend on row, prompt, time and exchange; it remembers how it was called."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[Prompt, ...], bool]] = []

    def __call__(self, state: State, times: Times, prompts: tuple[Prompt, ...], *, exchange: bool) -> State:
        self.calls.append((prompts, exchange))
        return tuple(
            None if tensor is None else self.one(tensor, t, prompts, exchange)
            for tensor, t in zip(state, times, strict=True)
        )

    def one(self, tensor: Tensor, t: float, prompts: tuple[Prompt, ...], exchange: bool) -> Tensor:
        rows = tensor.chunk(len(prompts))
        words = {"positive": 1.0, "negative": -0.4}
        return torch.cat([torch.sin(row + words[p] + t) + 0.3 * exchange for row, p in zip(rows, prompts, strict=True)])


def states() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(2, 3, 2, 2, 2, generator=generator, dtype=torch.float64)
    return video, torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("exchange", [0.0, 1.5])
@pytest.mark.parametrize("present", [(True, True), (True, False), (False, True)])
def test_batched_equals_sequential(exchange: float, present: tuple[bool, bool]) -> None:
    state: State = tuple(x if here else None for x, here in zip(states(), present, strict=True))
    one = guided(Recorder(), Guidance(4.0, 2.5, exchange, batched=True))(state, TIMES)
    other = guided(Recorder(), Guidance(4.0, 2.5, exchange, batched=False))(state, TIMES)
    for x, y, here in zip(one, other, present, strict=True):
        assert (x is None and y is None) if not here else torch.equal(x, y)


@pytest.mark.parametrize(
    ("video", "audio", "exchange"), list(itertools.product((0.0, 1.0, 5.0), (1.0, 3.0), (0.0, 2.0)))
)
def test_the_formula_holds_for_each_modality(video: float, audio: float, exchange: float) -> None:
    state, model = states(), Recorder()
    positive = model(state, TIMES, ("positive",), exchange=True)
    negative = model(state, TIMES, ("negative",), exchange=True)
    alone = model(state, TIMES, ("positive",), exchange=False)
    made = guided(Recorder(), Guidance(video, audio, exchange))(state, TIMES)
    for out, weight, p, n, a in zip(made, (video, audio), positive, negative, alone, strict=True):
        torch.testing.assert_close(out, n + weight * (p - n) + exchange * (p - a), rtol=0, atol=1e-12)


def test_passes_that_cannot_matter_are_not_evaluated() -> None:
    def calls(guidance: Guidance, state: State) -> list[tuple[tuple[Prompt, ...], bool]]:
        model = Recorder()
        guided(model, guidance)(state, TIMES)
        return model.calls

    video, audio = states()
    pos, neg = ("positive",), ("negative",)
    assert calls(Guidance(), (video, audio)) == [(pos, True)]
    assert calls(Guidance(video=1.0, audio=4.0), (video, None)) == [(pos, True)]
    assert calls(Guidance(video=4.0), (video, None)) == [(pos, True), (neg, True)]
    assert calls(Guidance(exchange=2.0), (video, None)) == [(pos, True)]
    assert calls(Guidance(exchange=2.0), (video, audio)) == [(pos, True), (pos, False)]
    assert calls(Guidance(3.0, 3.0, 2.0, batched=True), (video, audio)) == [(pos + neg, True), (pos, False)]


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_weights_that_are_no_weights_are_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="audio guidance"):
        Guidance(audio=weight)
