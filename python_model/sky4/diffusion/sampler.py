"""Samplers: dz/dt = v(z, t) integrated from noise at t = 0 to data at t = 1 (model.md section 5).

The state is (video, audio); either may be None where there is no such modality. Each modality runs on its own times:
one that is held lies at t = 1 throughout and stays as it was given (clean audio that drives the video, or the reverse).

Where sampling stands is a value, a `Moment`: written down and gone on from, the rest gives the same bits.

A state's tensors are [B, ...] float32 or float64, whatever dtype the model computes in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from sky4.diffusion.flow import shift
from sky4.errors import Sky4Failure

State = tuple[Tensor | None, Tensor | None]
Times = tuple[float, float]
Velocity = Callable[[State, Times], State]
Method = Literal["euler", "heun", "unipc"]
Modality = Literal["video", "audio"]

METHODS: tuple[Method, ...] = get_args(Method)
MODALITIES: tuple[Modality, ...] = get_args(Modality)


@dataclass(frozen=True)
class Schedule:
    """The times that each modality passes: steps + 1 values, rising from 0 to 1, or all 1 where it is held."""

    video: tuple[float, ...]
    audio: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.video) != len(self.audio) or len(self.video) < 2:
            raise ValueError(f"both modalities need one time more than steps, got {len(self.video)}, {len(self.audio)}")
        for times in (self.video, self.audio):
            held = set(times) == {1.0}
            rising = times[0] == 0.0 and times[-1] == 1.0 and all(a < b for a, b in pairwise(times))
            if not held and not rising:
                raise ValueError(f"times must rise from 0 to 1, or all be 1 to hold a modality, got {times}")

    @property
    def steps(self) -> int:
        return len(self.video) - 1

    def at(self, step: int) -> Times:
        return self.video[step], self.audio[step]


@dataclass(frozen=True)
class Moment:
    """Where sampling stands: all that the steps to come depend on, beside the velocity and the times.

    step: so many steps are done. history: what a method remembers of earlier steps, by name; tensors like the
    latents, or whole numbers without an axis.
    """

    step: int
    latents: State
    history: Mapping[str, Tensor] = field(default_factory=dict)


OnStep = Callable[[int, int, Moment], None]


def timesteps(steps: int, shift_by: float = 1.0) -> tuple[float, ...]:
    """steps + 1 times from 0 to 1, evenly spaced, then shifted. Raises ValueError for fewer than one step."""
    if steps < 1:
        raise ValueError(f"sampling needs at least 1 step, got {steps}")
    even = torch.arange(steps + 1, dtype=torch.float64) / steps
    inner = shift(even, shift_by).tolist()[1:-1]
    return (0.0, *inner, 1.0)  # the ends exactly, whatever the shift rounds them to


def schedule(
    steps: int, shift_by: float = 1.0, *, audio_shift: float | None = None, hold: Modality | None = None
) -> Schedule:
    """Both modalities' times: one shift for both unless audio_shift is given; `hold` keeps one of them clean."""
    kept = (1.0,) * (steps + 1)
    video = timesteps(steps, shift_by)
    audio = timesteps(steps, shift_by if audio_shift is None else audio_shift)
    return Schedule(kept if hold == "video" else video, kept if hold == "audio" else audio)


def evaluations(method: Method, steps: int) -> int:
    """How often the velocity is asked for."""
    return 2 * steps if method == "heun" else steps


def sample(
    velocity: Velocity,
    start: State,
    times: Schedule,
    method: Method = "euler",
    on_step: OnStep | None = None,
    resumed: Moment | None = None,
) -> State:
    """Integrate from `start` (noise; clean latents where a modality is held) to data, or go on from `resumed`.

    on_step(step, steps, moment) is called after each step, step from 1. Raises Sky4Failure naming the step and the
    modality where numbers cease to be finite, ValueError for an unknown method and a moment beyond the last step.
    """
    if method not in _METHODS:
        raise ValueError(f"unknown sampler {method!r}; choose one of {', '.join(METHODS)}")
    moment = Moment(0, start) if resumed is None else resumed
    if not 0 <= moment.step <= times.steps:
        raise ValueError(f"a moment after {moment.step} steps is outside a schedule of {times.steps}")
    state = moment.latents
    for after in _METHODS[method](velocity, moment, times):
        state = after.latents
        _require_finite(state, after.step, times)
        if on_step is not None:
            on_step(after.step, times.steps, after)
    return state


def _euler(velocity: Velocity, moment: Moment, times: Schedule) -> Iterator[Moment]:
    """First order: z += dt * v."""
    state = moment.latents
    for step, now, after in _steps(moment, times):
        state = _moved(state, velocity(state, now), now, after)
        yield Moment(step, state)


def _heun(velocity: Velocity, moment: Moment, times: Schedule) -> Iterator[Moment]:
    """Second order: the mean of the velocities at both ends of the step."""
    state = moment.latents
    for step, now, after in _steps(moment, times):
        here = velocity(state, now)
        there = velocity(_moved(state, here, now, after), after)
        state = _moved(state, _mean(here, there), now, after)
        yield Moment(step, state)


def _unipc(velocity: Velocity, moment: Moment, times: Schedule) -> Iterator[Moment]:
    """Second-order UniPC of diffusers, one scheduler per modality; one evaluation a step serves both its halves."""
    state = moment.latents
    solvers = [_unipc_solver(times.video), _unipc_solver(times.audio)]
    for solver, name in zip(solvers, MODALITIES, strict=True):
        _recall(solver, name, moment)
    for step, now, _ in _steps(moment, times):
        v, a = velocity(state, now)
        state = _unipc_step(solvers[0], state[0], v), _unipc_step(solvers[1], state[1], a)
        remembered = [_remembered(solver, name) for solver, name in zip(solvers, MODALITIES, strict=True)]
        yield Moment(step, state, remembered[0] | remembered[1])


_METHODS: dict[str, Callable[[Velocity, Moment, Schedule], Iterator[Moment]]] = {
    "euler": _euler,
    "heun": _heun,
    "unipc": _unipc,
}


def _unipc_solver(times: tuple[float, ...]) -> Any:
    if times[0] == 1.0:  # held: nothing to solve
        return None
    from diffusers import UniPCMultistepScheduler  # here, as the other samplers do without diffusers

    solver = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, solver_order=2, flow_shift=1.0
    )
    solver.set_timesteps(sigmas=1.0 - np.array(times[:-1]))  # its sigma is the share of noise
    solver.set_begin_index(0)
    return solver


def _remembered(solver: Any, name: Modality) -> dict[str, Tensor]:
    """What a scheduler of diffusers holds of earlier steps; empty where the modality does not move."""
    if solver is None or solver.last_sample is None:
        return {}
    held = {f"output {back}": output for back, output in enumerate(reversed(solver.model_outputs))}
    held |= {
        "corrected": solver.last_sample,
        "order": torch.tensor(solver.this_order),
        "lower orders": torch.tensor(solver.lower_order_nums),
    }
    return {f"{name} {key}": value for key, value in held.items() if value is not None}


def _recall(solver: Any, name: Modality, moment: Moment) -> None:
    held = {key.removeprefix(f"{name} "): value for key, value in moment.history.items() if key.startswith(f"{name} ")}
    if solver is None or not held:
        return
    solver.model_outputs = [held.get(f"output {back}") for back in reversed(range(solver.config.solver_order))]
    solver.last_sample = held["corrected"]
    solver.this_order, solver.lower_order_nums = int(held["order"]), int(held["lower orders"])
    solver.set_begin_index(moment.step)


def _unipc_step(solver: Any, state: Tensor | None, velocity: Tensor | None) -> Tensor | None:
    if state is None or solver is None:
        return state
    assert velocity is not None, "a modality that moves needs a velocity"
    at = solver.timesteps[solver.begin_index if solver.step_index is None else solver.step_index]
    moved: Tensor = solver.step(-velocity.to(state.dtype), at, state, return_dict=False)[0]  # its velocity is eps - z0
    return moved


def _steps(moment: Moment, times: Schedule) -> Iterator[tuple[int, Times, Times]]:
    """(its number from 1, the times before and after it) of each step that is left."""
    for step in range(moment.step, times.steps):
        yield step + 1, times.at(step), times.at(step + 1)


def _moved(state: State, velocity: State, now: Times, after: Times) -> State:
    video = _along(state[0], velocity[0], after[0] - now[0])
    return video, _along(state[1], velocity[1], after[1] - now[1])


def _along(state: Tensor | None, velocity: Tensor | None, dt: float) -> Tensor | None:
    if state is None or dt == 0.0:
        return state
    assert velocity is not None, "a modality that moves needs a velocity"
    return state + dt * velocity.to(state.dtype)


def _mean(one: State, other: State) -> State:
    return _half(one[0], other[0]), _half(one[1], other[1])


def _half(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return None if one is None or other is None else (one + other) / 2


def _require_finite(state: State, step: int, times: Schedule) -> None:
    for name, tensor, t in zip(MODALITIES, state, times.at(step), strict=True):
        # the sum of a finite tensor of latents is finite, and one number is cheaper to fetch than a mask
        if tensor is not None and not math.isfinite(float(tensor.sum())) and not bool(tensor.isfinite().all()):
            raise Sky4Failure(
                f"the {name} latents ceased to be finite at step {step} of {times.steps} (t = {t:.3f}); "
                "compute in float32 or lower the guidance"
            )
