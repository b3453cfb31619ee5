"""The samplers against flows whose solution is known in closed form."""

import itertools
import math
import re
from typing import Literal

import pytest
import torch
from torch import Tensor

from sky4.diffusion.flow import shift
from sky4.diffusion.noise import batch_noise
from sky4.diffusion.sampler import (
    METHODS,
    Method,
    Moment,
    Schedule,
    State,
    Times,
    evaluations,
    sample,
    schedule,
    timesteps,
)
from sky4.errors import Sky4Failure

MEAN = torch.linspace(-2.0, 2.0, 16, dtype=torch.float64).reshape(1, 16)
SPREAD = 0.3


def gaussian_velocity(z: Tensor, t: float) -> Tensor:
    """E[z0 - eps | z_t] for data N(MEAN, SPREAD^2): its flow carries eps to MEAN + SPREAD*eps."""
    residual = (z - t * MEAN) / (t * t * SPREAD**2 + (1 - t) ** 2)
    return MEAN + t * SPREAD**2 * residual - (1 - t) * residual


def both(state: State, times: Times) -> State:
    video, audio = state
    return (
        None if video is None else gaussian_velocity(video, times[0]),
        None if audio is None else gaussian_velocity(audio, times[1]),
    )


def start(seed: int = 0) -> Tensor:
    return batch_noise((16,), seed, "video", range(4), dtype=torch.float64)


def error(method: Method, steps: int, shift_by: float = 1.0) -> float:
    eps = start()
    video, _ = sample(both, (eps, None), schedule(steps, shift_by), method)
    assert video is not None
    return float((video - (MEAN + SPREAD * eps)).abs().max())


@pytest.mark.parametrize(
    ("method", "order", "steps"),
    [("euler", 1, (32, 64, 128)), ("heun", 2, (32, 64, 128)), ("unipc", 2, (96, 192, 384))],
)
def test_halving_the_step_gains_what_the_order_claims(method: Method, order: int, steps: tuple[int, ...]) -> None:
    errors = [error(method, count) for count in steps]
    gains = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(order - 0.1 <= gain <= order + 0.6 for gain in gains), (errors, gains)


@pytest.mark.parametrize("shift_by", [1.0, 3.0])
@pytest.mark.parametrize("method", METHODS)
def test_each_sampler_recovers_the_gaussian_flow(method: Method, shift_by: float) -> None:
    assert error(method, 100, shift_by) < {"euler": 4e-2, "heun": 1e-3, "unipc": 4e-3}[method]


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_a_straight_flow_is_exact_in_any_number_of_steps(method: Method, steps: int) -> None:
    eps, data = start(0), start(1)
    video, _ = sample(lambda state, times: (data - eps, None), (eps, None), schedule(steps, 2.0), method)
    # UniPC starts from a noise share of 1 - 1e-6, to keep its logarithms finite
    torch.testing.assert_close(video, data, rtol=0, atol=1e-5 if method == "unipc" else 1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_held_modality_stays_bit_for_bit_and_sees_t_1(method: Method) -> None:
    clean, seen = start(2), []

    def velocity(state: State, times: Times) -> State:
        seen.append(times[1])
        return gaussian_velocity(state[0], times[0]), torch.full_like(clean, 7.0)

    video, audio = sample(velocity, (start(), clean), schedule(5, hold="audio"), method)
    assert torch.equal(audio, clean)
    assert seen == [1.0] * evaluations(method, 5)
    alone, _ = sample(both, (start(), None), schedule(5), method)
    assert torch.equal(video, alone)


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_is_the_same_alone_and_in_any_batch(method: Method) -> None:
    def run(indices: list[int]) -> State:
        video = batch_noise((2, 3, 2, 2), 5, "video", indices)
        audio = batch_noise((7, 4), 5, "audio", indices)
        return sample(lambda state, times: (state[0].sin(), state[1].cos()), (video, audio), schedule(6, 2.0), method)

    (video, audio), (one_video, one_audio) = run([3, 1, 2]), run([2])
    assert torch.equal(video[2:], one_video)
    assert torch.equal(audio[2:], one_audio)


@pytest.mark.parametrize("method", METHODS)
def test_modalities_on_different_shifts_do_not_disturb_one_another(method: Method) -> None:
    eps = start()
    video, audio = sample(both, (eps, eps), schedule(8, 1.0, audio_shift=3.0), method)
    assert torch.equal(video, sample(both, (eps, None), schedule(8, 1.0), method)[0])
    assert torch.equal(audio, sample(both, (None, eps), schedule(8, 3.0), method)[1])


@pytest.mark.parametrize("method", METHODS)
def test_a_low_precision_velocity_keeps_the_state_in_float32(method: Method) -> None:
    eps = start().float()
    video, _ = sample(lambda state, times: (state[0].bfloat16(), None), (eps, None), schedule(3), method)
    assert video.dtype == torch.float32


@pytest.mark.parametrize("method", METHODS)
def test_on_step_counts_every_step_once(method: Method) -> None:
    calls: list[tuple[int, int]] = []
    sample(both, (start(), None), schedule(4), method, on_step=lambda step, steps, _: calls.append((step, steps)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("hold", [None, "audio"])
@pytest.mark.parametrize("method", METHODS)
def test_going_on_from_any_moment_gives_the_same_bits(method: Method, hold: Literal["audio"] | None) -> None:
    moments: list[Moment] = []
    times = schedule(6, 2.0, hold=hold)
    whole = sample(both, (start(0), start(1)), times, method, on_step=lambda *told: moments.append(told[2]))
    assert [moment.step for moment in moments] == [1, 2, 3, 4, 5, 6]
    rest: list[int] = []
    sample(both, (start(), start()), times, method, lambda step, *_: rest.append(step), moments[3])
    assert rest == [5, 6]
    for moment in moments:
        again = sample(both, (start(7), start(8)), times, method, resumed=_copied(moment))
        assert all(torch.equal(one, other) for one, other in zip(whole, again, strict=True))


def _copied(moment: Moment) -> Moment:
    """Nothing of it shared with the run that it comes from."""
    video, audio = (part.clone() for part in moment.latents)
    return Moment(moment.step, (video, audio), {name: value.clone() for name, value in moment.history.items()})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_latents_stop_the_run_and_name_modality_and_step(method: Method, bad: float) -> None:
    def velocity(state: State, times: Times) -> State:
        audio = torch.zeros_like(state[1])
        audio[0, 3] = bad if times[1] >= 0.5 else 0.0
        return state[0], audio

    with pytest.raises(Sky4Failure, match=r"audio latents .* step \d of 4") as caught:
        sample(velocity, (start(), start()), schedule(4), method)
    assert int(re.search(r"step (\d)", str(caught.value)).group(1)) == (2 if method == "heun" else 3)


def test_large_finite_latents_are_not_taken_for_broken_ones() -> None:
    huge = torch.full((1, 4), 3e38)  # their sum overflows
    video, _ = sample(lambda state, times: (torch.zeros_like(huge), None), (huge, None), schedule(1))
    assert torch.equal(video, huge)


def test_timesteps_follow_the_shift_formula_and_hit_both_ends() -> None:
    assert timesteps(4) == (0.0, 0.25, 0.5, 0.75, 1.0)
    for by in (0.5, 2.7, 3.0, 12.0):
        times = timesteps(7, by)
        assert times[0] == 0.0
        assert times[-1] == 1.0
        for i, t in enumerate(times):
            share = 1 - i / 7
            assert 1 - t == pytest.approx(by * share / (1 + (by - 1) * share), abs=1e-12)


def test_a_shift_above_one_spends_more_steps_on_noise() -> None:
    assert sum(t < 0.5 for t in timesteps(20, 3.0)) > sum(t < 0.5 for t in timesteps(20))


def test_bad_values_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="at least 1 step"):
        timesteps(0)
    with pytest.raises(ValueError, match="shift must be above 0"):
        shift(torch.tensor(0.5), 0.0)
    with pytest.raises(ValueError, match="unknown sampler 'magic'; choose one of euler, heun, unipc"):
        sample(both, (start(), None), schedule(1), "magic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="after 3 steps is outside a schedule of 2"):
        sample(both, (start(), None), schedule(2), resumed=Moment(3, (start(), None)))
    with pytest.raises(ValueError, match="rise from 0 to 1"):
        Schedule((0.0, 0.5), (0.0, 1.0))
