"""A case: one computation on one shape, ours beside its opponents; and the run through all of them within a budget."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from sky4.bench.machine import Roofs, dtype_name, free_memory
from sky4.bench.record import NotRun, Row
from sky4.bench.timing import MIN_ROUNDS, Measured, Stopwatch, first_sentence, interleave

OURS = "sky4"
CALLS = MIN_ROUNDS + 1  # of every candidate, the least: one to warm up and the rounds
LAST_SHARE = 0.8  # of the budget is given to cases; the rest is for building them, for the roofs and for exact results
LEAST_SECONDS = 0.5  # that a case is given, however little is left
LEAST_WEIGHT = 0.2  # seconds that a call counts for at least where the time is shared out


@dataclass(frozen=True)
class Setting:
    """How everything is measured."""

    device: torch.device
    dtype: torch.dtype
    seed: int
    backend: str
    compile_from: float  # flop of a case from which on FlexAttention is compiled for it; infinite: never

    @property
    def generator(self) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(self.seed)

    def randn(self, *shape: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=self.device, dtype=self.dtype)


@dataclass(frozen=True)
class Candidate:
    """`call` is what is timed; `error` looks at what it returned."""

    call: Callable[[], Any]
    error: Callable[[Any], float] | None = None
    error_of: str | None = None
    flop: int | None = None  # where it differs from the case's
    backend: str | None = None


@dataclass
class Built:
    """The candidates on their tensors, ours among them, and the reasons for those that are missing."""

    candidates: dict[str, Candidate]
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """`build` takes the memory; before it, `flop` and `memory` tell whether the case is worth trying."""

    name: str
    build: Callable[[], Built]
    flop: int | None = None
    bytes: int | None = None
    memory: int = 0
    dtype: str | None = None  # where it is not the run's


def run_cases(
    cases: Sequence[Case],
    setting: Setting,
    stopwatch: Stopwatch,
    roofs: Roofs,
    budget: float,
    say: Callable[[str, int, int], None],
    each: Callable[[str, str, Callable[[], Any]], None] | None = None,
) -> tuple[list[Row], list[NotRun]]:
    """Measure the cases one after the other; what cannot be, is told with its reason.

    `each` is given case, subject and call of all that was measured, after the timing (for a profile).
    """
    began = stopwatch.now()
    roofs.visit()
    todo, not_run = _worth_trying(cases, setting, roofs, budget)

    def weight(case: Case) -> float:
        return max((case.flop or 0) / roofs.best_matmul, (case.bytes or 0) / roofs.copy, LEAST_WEIGHT)

    results: list[tuple[Case, Built, Measured, dict[str, float]]] = []
    for number, case in enumerate(todo):
        say(f"measuring {case.name}", number, len(todo))
        left = LAST_SHARE * budget - (stopwatch.now() - began)
        share = weight(case) / sum(map(weight, todo[number:]))
        try:
            built, measured, errors = _run(case, stopwatch, max(left * share, LEAST_SECONDS), each)
        except Exception as error:  # whatever it is, it becomes this case's reason and the others go on
            not_run.append(NotRun(case.name, OURS, first_sentence(error)))
            continue
        finally:
            _release(setting.device)
            roofs.visit()
        missing = {**built.missing, **measured.dropped}
        not_run += [NotRun(case.name, subject, reason) for subject, reason in missing.items()]
        results.append((case, built, measured, errors))
    rows = [
        _row(case, subject, built.candidates[subject], measured, errors.get(subject), setting, roofs)
        for case, built, measured, errors in results
        for subject in measured.samples
    ]
    return rows, not_run


def _run(
    case: Case,
    stopwatch: Stopwatch,
    seconds: float,
    each: Callable[[str, str, Callable[[], Any]], None] | None,
) -> tuple[Built, Measured, dict[str, float]]:
    """The candidates come back without their functions, which hold the case's tensors."""
    built = case.build()
    calls = {name: candidate.call for name, candidate in built.candidates.items()}
    measured = interleave(calls, stopwatch, seconds, keep=OURS)
    errors = {}
    for name in measured.samples:
        candidate = built.candidates[name]
        if candidate.error is not None:
            errors[name] = candidate.error(candidate.call())
        if each is not None:
            each(case.name, name, candidate.call)
    told = {name: replace(candidate, call=_nothing, error=None) for name, candidate in built.candidates.items()}
    return Built(told, built.missing), measured, errors


def _nothing() -> None:
    pass


def _worth_trying(
    cases: Sequence[Case], setting: Setting, roofs: Roofs, budget: float
) -> tuple[list[Case], list[NotRun]]:
    """The cases that memory and budget can hold, in their order, and the reasons for the others, the largest first.

    Of each case ours and one opponent are counted, as quick as a matrix product; nothing is, so what is left out here
    could not have been measured.
    """
    free = free_memory(setting.device)
    todo, not_run = list(cases), []
    for case in cases:
        if case.memory > free:
            todo.remove(case)
            reason = f"it needs about {case.memory / 2**30:.0f} GiB and {free / 2**30:.0f} GiB are free"
            not_run.append(NotRun(case.name, OURS, reason))
    calls = {case.name: (case.flop or 0) / roofs.best_matmul for case in todo}
    while todo and 2 * CALLS * sum(calls[case.name] for case in todo) > LAST_SHARE * budget:
        largest = max(todo, key=lambda case: calls[case.name])
        todo.remove(largest)
        reason = (
            f"a call takes at least {calls[largest.name]:.3g} s at the rate of a matrix product, too long beside the "
            f"other cases in {budget:.3g} s; raise --budget or ask for fewer shapes"
        )
        not_run.append(NotRun(largest.name, OURS, reason))
    return todo, not_run


def _row(
    case: Case,
    subject: str,
    candidate: Candidate,
    measured: Measured,
    error: float | None,
    setting: Setting,
    roofs: Roofs,
) -> Row:
    timing = measured.timing(subject)
    flop = case.flop if candidate.flop is None else candidate.flop
    rate, moved = (None if work is None else work / timing.median for work in (flop, case.bytes))
    dtype = case.dtype or dtype_name(setting.dtype)
    return Row(
        case=case.name,
        subject=subject,
        ours=subject == OURS,
        timing=timing,
        backend=candidate.backend,
        flop=flop,
        bytes=case.bytes,
        flop_per_second=rate,
        bytes_per_second=moved,
        share_of_matmul=_share(rate, roofs.matmul(dtype)),
        share_of_matmul_float32=None if dtype == "float32" else _share(rate, roofs.matmul("float32")),
        share_of_copy=_share(moved, roofs.copy),
        times_ours=measured.ratio(subject, OURS) if OURS in measured.samples else None,
        max_error=error,
        error_of=candidate.error_of if error is not None else None,
    )


def _share(rate: float | None, of: float | None) -> float | None:
    return None if rate is None or of is None else rate / of


def _release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
