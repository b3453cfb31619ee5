"""`sky4 bench e2e`: whole generations, and the same on another attention backend in interleaved pairs."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from typing import Any

from sky4.bench.cases import OURS
from sky4.bench.generation import Generation, generate_once
from sky4.bench.record import Row
from sky4.bench.timing import Timing
from sky4.pipeline.components import Components
from sky4.pipeline.request import ClipRequest

Each = Callable[[str, str, Callable[[], Any]], None]


def describe(request: ClipRequest, components: Components) -> str:
    """The case's name: what is generated."""
    size = f"{request.width}x{request.height}, {request.frames} frames, {request.steps} {request.sampler} steps"
    return f"generate {components.folder.manifest.name}, {size}"


def with_backend(components: Components, backend: str) -> Components:
    """The same networks on another attention backend."""
    other = copy.copy(components)  # with the networks that are loaded already
    other.backend = backend
    return other


def measure_generations(
    request: ClipRequest,
    components: Components,
    against: str | None,
    rounds: int,
    say: Callable[[str, int, int], None],
    each: Each,
) -> list[Row]:
    """A row for the whole and one for each stage, by backend; the first generation, which loads, is not counted."""
    say("loading, and warming up", 0, 1)
    generate_once(request, components)
    sides = {OURS: components}
    if against is not None:
        sides[f"backend {against}"] = with_backend(components, against)
        generate_once(request, sides[f"backend {against}"])
    runs: dict[str, list[Generation]] = {name: [] for name in sides}
    order = list(sides)
    for done in range(rounds):
        say("generating", done, rounds)
        for name in order:
            runs[name].append(generate_once(request, sides[name]))
        order.append(order.pop(0))
    say("generating", rounds, rounds)
    case = describe(request, components)
    for name, side in sides.items():
        each(case, name, lambda side=side: generate_once(request, side))  # type: ignore[misc]
    return [row for name in sides for row in _rows(case, name, sides[name].backend, runs[name], runs[OURS])]


def _rows(case: str, subject: str, backend: str, runs: list[Generation], ours: list[Generation]) -> list[Row]:
    totals = [run.total for run in runs]
    whole = Row(
        case,
        subject,
        subject == OURS,
        Timing.of(totals, 1),
        backend=backend,
        share_of_total=1.0,
        times_ours=statistics.median(a.total / b.total for a, b in zip(runs, ours, strict=True)),
        peak_bytes=max(run.peak_bytes for run in runs),
    )
    rows = [whole]
    for stage in runs[0].seconds:
        samples = [run.seconds[stage] for run in runs]
        shares = [run.seconds[stage] / run.total for run in runs]
        ratios = [a.seconds[stage] / b.seconds[stage] for a, b in zip(runs, ours, strict=True)]
        rows.append(
            Row(
                case,
                f"{subject}: {stage}",
                subject == OURS,
                Timing.of(samples, 1),
                backend=backend,
                share_of_total=statistics.median(shares),
                times_ours=statistics.median(ratios),
            )
        )
    return rows
