"""What a machine was measured to do, kept for later plans: seconds and memory of each stage on a few sizes.

Between the sizes, and somewhat beyond them, a stage's seconds are a sum of its operations, FLOPs of each kind and
bytes, each at a rate of its own, found by least squares without negative rates. Its peak memory is a sum of what the
process needs anyway, the weights, what the stage holds in large blocks, which the system gets back, and the heap, which
keeps what it has grown to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sky4 import __version__
from sky4.config import config_from_dict
from sky4.errors import RequestError, Sky4Failure
from sky4.pipeline.replacing import cache_folder, write_json
from sky4.planning.sketch import ModelSketch
from sky4.planning.trace import Cost

VERSION = 1  # of the file
FEATURES = ("once", "operations", "linear_flop", "attention_flop", "convolution_flop", "moved_bytes")


@dataclass(frozen=True)
class Facts:
    """What a calibration belongs to: it is not used for another machine, setting or torch."""

    device: str
    cores: int
    threads: int
    torch: str
    dtype: str
    sky4: str = __version__


@dataclass(frozen=True)
class Sighting:
    """One stage of one measured run. mapped_bytes, heap_bytes: what it was counted to hold in large blocks, and in
    small ones; weight_bytes: of all networks loaded by then."""

    stage: str
    cost: Mapping[str, int]
    mapped_bytes: int
    heap_bytes: int
    weight_bytes: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Rates:
    """Of one stage. seconds: of each of FEATURES. Its memory is rest_bytes, the weights, the large blocks, and of the
    small ones of_heap times as much, or the share of_kept of what the heap has grown to before if that is more."""

    seconds: tuple[float, ...]
    rest_bytes: float
    of_heap: float
    of_kept: float


@dataclass(frozen=True)
class Calibration:
    """model: its name and what its networks are, without the weights' values. spread: the largest ratio between two
    runs of one stage on one size, of the wall clock."""

    facts: Facts
    model: str
    model_key: str
    rates: Mapping[str, Rates]
    load_seconds: Mapping[str, float]
    library_bytes: int
    copy_bytes_per_second: float
    spread: float
    sizes: tuple[str, ...] = ()
    version: int = VERSION
    notes: Mapping[str, Any] = field(default_factory=dict)

    def seconds(self, stage: str, cost: Cost, runs: int = 1) -> float | None:
        """Of a stage of so many clips; None for a stage that was not measured."""
        rates = self.rates.get(stage)
        if rates is None:
            return None
        return sum(rate * value for rate, value in zip(rates.seconds, features(cost, runs), strict=True))

    def peak_bytes(self, stage: str, mapped: int, heap: int, weights: int, kept: int) -> int | None:
        """Of a stage that is counted as a Sighting is; kept: as `heap_bytes` of the stages before. None for a stage
        that was not measured."""
        rates = self.rates.get(stage)
        if rates is None:
            return None
        return round(rates.rest_bytes + weights + mapped + max(rates.of_heap * heap, rates.of_kept * kept))

    def heap_bytes(self, stage: str, heap: int) -> int:
        """What the heap grows to in a stage that is counted to hold `heap` bytes in small blocks."""
        rates = self.rates.get(stage)
        return heap if rates is None else round(rates.of_heap * heap)


def features(cost: Cost, runs: int = 1) -> tuple[float, ...]:
    """The values of FEATURES."""
    return (runs, *(getattr(cost, name) for name in FEATURES[1:]))


def fitted(runs: Sequence[Sequence[Sighting]]) -> dict[str, Rates]:
    """The rates of every stage. runs: each the stages of one size, in their order and the same in all."""
    found = {}
    kept = [0.0 for _ in runs]
    for seen in zip(*runs, strict=True):
        rates = _rates(seen, kept)
        kept = [max(before, rates.of_heap * one.heap_bytes) for before, one in zip(kept, seen, strict=True)]
        found[seen[0].stage] = rates
    return found


def _rates(seen: Sequence[Sighting], kept: Sequence[float]) -> Rates:
    times = [[1.0, *(float(one.cost[name]) for name in FEATURES[1:])] for one in seen]
    # relative errors: a short run counts as much as a long one
    seconds = _least_squares(times, [one.seconds for one in seen])
    left = [one.peak_bytes - one.weight_bytes - one.mapped_bytes for one in seen]
    return Rates(tuple(seconds), *_memory(left, [one.heap_bytes for one in seen], kept))


def _memory(left: Sequence[float], heap: Sequence[float], kept: Sequence[float]) -> tuple[float, float, float]:
    """(rest, of_heap, of_kept) with which rest + max(of_heap * heap, of_kept * kept) comes nearest to what is left."""
    import numpy as np

    wanted, own, before = (np.array(values, float) for values in (left, heap, kept))
    best = (np.inf, 0.0, 0.0, 0.0)
    for of_kept in np.linspace(0, 1, 11):
        for of_heap in np.linspace(0, 4, 81):
            grown = np.maximum(of_heap * own, of_kept * before)
            rest = float(np.mean(wanted - grown))
            error = float(np.sum((wanted - grown - rest) ** 2))
            if rest >= 0 and error < best[0]:
                best = (error, rest, float(of_heap), float(of_kept))
    return best[1:]


def _least_squares(rows: list[list[float]], wanted: list[float]) -> list[float]:
    """The factors, none negative, with which the rows' sums come nearest to what is wanted, in relative terms."""
    import numpy as np
    from scipy.optimize import nnls

    matrix = np.array(rows) / np.array(wanted)[:, None]
    scale = np.maximum(np.abs(matrix).max(axis=0), 1e-300)
    found, _ = nnls(matrix / scale, np.ones(len(matrix)))
    return [float(value) for value in found / scale]


def model_key(sketch: ModelSketch) -> str:
    """What decides a model's speed and memory: the configurations of its parts."""
    told = {"transformer": asdict(sketch.transformer_config), **sketch.configs}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]


def folder() -> Path:
    """Where calibrations lie: sky4/calibration in the user's cache (XDG)."""
    return cache_folder() / "calibration"


def save(calibration: Calibration) -> Path:
    """Write it under its facts' name, in the place of an earlier one. Sky4Failure where that cannot be written."""
    path = _path(calibration.facts, calibration.model_key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(calibration))
    except OSError as error:
        raise Sky4Failure(
            f"the calibration cannot be written to {path} ({error.strerror}); set XDG_CACHE_HOME"
        ) from error
    return path


def find(facts: Facts, key: str) -> Calibration | None:
    """The calibration of this machine and setting: with this model, else with the one measured last; None without any.

    A file that cannot be read counts as none.
    """
    exact = _path(facts, key)
    others = sorted(exact.parent.glob(f"{_name(facts)}-*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    for path in [exact, *others]:
        try:
            found = config_from_dict(Calibration, json.loads(path.read_text("utf-8")), path.name)
        except (OSError, ValueError, RequestError):
            continue
        if found.version == VERSION and found.facts == facts:
            return found
    return None


def _name(facts: Facts) -> str:
    return hashlib.sha256(json.dumps(asdict(facts), sort_keys=True).encode()).hexdigest()[:16]


def _path(facts: Facts, key: str) -> Path:
    return folder() / f"{_name(facts)}-{key}.json"
