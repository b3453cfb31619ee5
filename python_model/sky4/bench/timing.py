"""Times of several candidates side by side: warm-up, then rounds in which each runs once, so that all of them meet the
same machine; ratios are taken within the rounds. All times are seconds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch

MIN_ROUNDS, MAX_ROUNDS = 3, 20  # below three a median says nothing; beyond twenty it hardly moves
OVERRUN = 0.5  # share of a case's time by which the least rounds may exceed it: a comparison is worth more than that
SAMPLE_SECONDS = 200e-6  # a sample lasts at least so long: a thousand times what the clock resolves
FLUSHED_BYTES = 256 * 2**20  # several times the largest L2


@dataclass(frozen=True)
class Timing:
    """Seconds of one call."""

    warmup: int
    n: int
    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, samples: list[float], warmup: int) -> Timing:
        """Of at least one sample; the percentiles are interpolated linearly."""
        ordered = sorted(samples)
        return cls(warmup, len(ordered), statistics.median(ordered), percentile(ordered, 0.1), percentile(ordered, 0.9))


def percentile(ordered: list[float], share: float) -> float:
    """The value below which `share` of the ascending samples lie, linear between two of them."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


class Stopwatch(Protocol):
    """Measures calls. `now` counts against the budget, `sample` is what is reported."""

    def now(self) -> float: ...

    def sample(self, name: str, function: Callable[[], object], calls: int) -> float:
        """Seconds of one of `calls` calls in a row."""
        ...


class HostStopwatch:
    """For the CPU. The clock is a parameter for the tests."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.now = clock

    def sample(self, name: str, function: Callable[[], object], calls: int) -> float:
        start = self.now()
        for _ in range(calls):
            function()
        return (self.now() - start) / calls


class CudaStopwatch:
    """For a CUDA device: events around one call, after the L2 cache has been flushed.

    The flush also keeps the device busy while Python enqueues the call, so that no launch is waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._flushed = torch.empty(FLUSHED_BYTES, dtype=torch.int8, device=device)

    def now(self) -> float:
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def sample(self, name: str, function: Callable[[], object], calls: int) -> float:
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        total = 0.0
        for _ in range(calls):
            self._flushed.zero_()
            with named_range(name, self.device):
                start.record()
                function()
                stop.record()
            stop.synchronize()
            total += start.elapsed_time(stop) / 1000
        return total / calls


def stopwatch_for(device: torch.device) -> HostStopwatch | CudaStopwatch:
    return CudaStopwatch(device) if device.type == "cuda" else HostStopwatch()


def named_range(name: str, device: torch.device) -> AbstractContextManager[object]:
    """An NVTX range on CUDA devices, nothing elsewhere."""
    return torch.cuda.nvtx.range(name) if device.type == "cuda" else nullcontext()


@dataclass(frozen=True)
class Measured:
    """Samples by candidate, one per round and in the order of the rounds; `dropped` maps a name to the reason."""

    warmups: dict[str, int]
    samples: dict[str, list[float]]
    dropped: dict[str, str]

    def timing(self, name: str) -> Timing:
        return Timing.of(self.samples[name], self.warmups[name])

    def ratio(self, name: str, base: str) -> float:
        """How many times as long as `base` it takes: the median over the rounds."""
        return statistics.median(x / y for x, y in zip(self.samples[name], self.samples[base], strict=True))


def interleave(
    candidates: Mapping[str, Callable[[], object]],
    stopwatch: Stopwatch,
    seconds: float,
    *,
    keep: str | None = None,
    max_rounds: int = MAX_ROUNDS,
    min_rounds: int = MIN_ROUNDS,
) -> Measured:
    """Measure the candidates in rounds until `seconds` are over or `max_rounds` are done, at least `min_rounds`.

    Every candidate is called once first, which warms it up and tells what it costs. What cannot fit `min_rounds` calls
    into the time is dropped with the reason, the slowest first and `keep` last. A candidate that raises is dropped with
    its error. The order turns by one from round to round, so that none always follows the same.
    """
    began = stopwatch.now()
    costs: dict[str, float] = {}
    warmups: dict[str, int] = {}
    dropped: dict[str, str] = {}
    for name, function in candidates.items():
        if costs and stopwatch.now() - began > seconds:
            dropped[name] = f"not reached: the {seconds:.3g} s of this case were over; raise --budget"
            continue
        try:
            costs[name], warmups[name] = _timed(stopwatch, function), 1
            if costs[name] < seconds / 20:  # cheap: the first call may have built caches or compiled
                costs[name], warmups[name] = _timed(stopwatch, function), 2
        except Exception as error:  # whatever it is, it becomes this candidate's reason and the others go on
            dropped[name] = first_sentence(error)
    while costs and min_rounds * sum(costs.values()) > (1 + OVERRUN) * seconds - (stopwatch.now() - began):
        slowest = max((name for name in costs if name != keep or len(costs) == 1), key=lambda name: costs[name])
        if slowest == keep and min_rounds * costs[slowest] <= seconds:
            break  # the opponents' first calls took its time; it alone is still worth the whole of it
        dropped[slowest] = (
            f"a call takes {costs[slowest]:.3g} s, too long for {min_rounds} rounds in the {seconds:.3g} s of this "
            "case; raise --budget"
        )
        del costs[slowest]
    calls = {name: max(1, round(SAMPLE_SECONDS / max(cost, 1e-9))) for name, cost in costs.items()}
    samples: dict[str, list[float]] = {name: [] for name in costs}
    order = list(costs)
    for done in range(max_rounds if order else 0):
        if done >= min_rounds and stopwatch.now() - began > seconds:
            break
        for name in order:
            samples[name].append(stopwatch.sample(name, candidates[name], calls[name]))
        order.append(order.pop(0))
    return Measured(warmups, samples, dropped)


def _timed(stopwatch: Stopwatch, function: Callable[[], object]) -> float:
    start = stopwatch.now()
    function()
    return stopwatch.now() - start


def first_sentence(error: Exception) -> str:
    """An error as a short reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 160 else f"{text[:157]}..."
