"""Calibrating: runs of a model on a few sizes, each in a process of its own, and what is learned from them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from sky4.geometry import ClipGeometry
from sky4.pipeline.devices import physical_cores, processor
from sky4.pipeline.request import ClipRequest
from sky4.planning.calibration import Calibration, Facts, Sighting, fitted, model_key
from sky4.planning.plan import held_of
from sky4.planning.sketch import ModelSketch
from sky4.planning.stages import stages_of
from sky4.planning.work import Setting

Measure = Callable[[ClipRequest], Mapping[str, Any]]  # one run, as sky4cli.probe tells it

PROGRESS = {
    "text": "reading the prompt",
    "conditions": "conditions",
    "base": "sampling",
    "refiner": "refining",
}  # what the pipeline calls them
STEPS = 3  # of a run: each step costs the same
# A run's size and length, in shares of the model's own: short and small, as trained, longer, four times the picture.
SIZES = ((1, 0.2), (1, 1), (1, 2), (2, 0.4), (2, 1), (4, 0.2), (4, 0.6))


def facts_of(device: torch.device, dtype: torch.dtype, threads: int) -> Facts:
    """Of this machine and setting."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return Facts(name, physical_cores(), threads, torch.__version__, str(dtype).removeprefix("torch."))


def requests_for(request: ClipRequest, sketch: ModelSketch) -> list[ClipRequest]:
    """What is measured: the request at several sizes."""
    step, cell = sketch.folder.temporal_compression, sketch.folder.cell
    made = []
    for scale, length in SIZES:
        frames = max(1, round((request.frames - 1) * length / step)) * step + 1
        sides = (max(cell, round(side * scale / cell) * cell) for side in (request.width, request.height))
        width, height = sides
        made.append(replace(request, width=width, height=height, frames=frames, steps=STEPS))
    return made


def calibrate(
    requests: Sequence[ClipRequest],
    geometry_of: Callable[[ClipRequest], ClipGeometry],
    sketch: ModelSketch,
    setting: Setting,
    facts: Facts,
    measure: Measure,
    rounds: int,
    say: Callable[[str, int, int], None],
) -> Calibration:
    """Measure every request `rounds` times and learn from the medians."""
    sightings: list[list[Sighting]] = []
    spread, loads, library, copies = 1.0, [], [], []
    runs: list[list[Mapping[str, Any]]] = [[] for _ in requests]
    total = rounds * len(requests)
    for number in range(total):  # in turns, so that a busy minute does not fall on one size alone
        say("measuring", number, total)
        index = number % len(requests)
        runs[index].append(measure(requests[index]))
    say("measuring", total, total)
    for request, seen in zip(requests, runs, strict=True):
        sightings.append(sightings_of(request, geometry_of(request), sketch, setting, seen))
        loads += [{name: one["seconds"] for name, one in run["stages"].items() if _is_load(name)} for run in seen]
        library += [int(run["stages"]["libraries"]["bytes_after"]) for run in seen]
        copies += [float(run["copy"]) for run in seen]
        spread = max(spread, *(max(_walls(seen, n)) / max(1e-9, min(_walls(seen, n))) for n in _long(seen)))
    names = dict.fromkeys(name for load in loads for name in load)
    return Calibration(
        facts=facts,
        model=sketch.folder.manifest.name,
        model_key=model_key(sketch),
        rates=fitted(sightings),
        load_seconds={n.removeprefix("load "): statistics.median(load[n] for load in loads) for n in names},
        library_bytes=round(statistics.median(library)),
        copy_bytes_per_second=statistics.median(copies),
        spread=spread,
        sizes=tuple(f"{r.width}x{r.height}, {r.frames} frames" for r in requests),
        notes={"rounds": rounds, "sightings": [[asdict(one) for one in run] for run in sightings]},
    )


def sightings_of(
    request: ClipRequest,
    geometry: ClipGeometry,
    sketch: ModelSketch,
    setting: Setting,
    runs: Sequence[Mapping[str, Any]],
) -> list[Sighting]:
    """What the runs of one request tell of each of its stages: the median seconds, the largest memory."""
    parts, stages = stages_of(request, geometry, sketch, setting)
    found = []
    loaded: set[str] = set()
    for stage, held in zip(stages, held_of(stages), strict=True):
        loaded |= set(stage.parts)
        weights = sum(parts[name].bytes for name in loaded)
        told = [run["stages"][PROGRESS.get(stage.name, stage.name)] for run in runs]
        cost = {name: int(value) for name, value in asdict(stage.cost).items()}
        found.append(
            Sighting(
                stage=stage.name,
                cost=cost,
                mapped_bytes=held.mapped,
                heap_bytes=held.heap,
                weight_bytes=weights,
                seconds=statistics.median(one["seconds"] for one in told),
                cpu_seconds=statistics.median(one["cpu_seconds"] for one in told),
                peak_bytes=max(int(one["peak_bytes"]) for one in told),
            )
        )
    return found


def _is_load(name: str) -> bool:
    return name == "libraries" or name.startswith("load ")


def _walls(runs: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [float(run["stages"][name]["seconds"]) for run in runs]


def _long(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Stages that last long enough for a ratio to mean something."""
    return [name for name in runs[0]["stages"] if min(_walls(runs, name)) >= 0.2] or ["libraries"]
