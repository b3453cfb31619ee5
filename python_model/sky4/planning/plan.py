"""A plan: a request's stages with their peak memory and seconds, and the economy that fits into a limit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from sky4.errors import DoesNotFit
from sky4.geometry import ClipGeometry
from sky4.pipeline.economy import Economy
from sky4.pipeline.request import ClipRequest
from sky4.planning.calibration import Calibration, model_key
from sky4.planning.networks import BLOCKS, Part
from sky4.planning.sketch import ModelSketch
from sky4.planning.stages import stages_of
from sky4.planning.work import Setting, Stage

Counted = tuple[dict[str, Part], list[Stage]]

SCHEMA, VERSION = "sky4-plan", 1
# Without a calibration: what a process with the libraries takes, and a CUDA context. Estimates, and said to be.
LIBRARY_BYTES = 400 * 2**20
CONTEXT_BYTES = 600 * 2**20
# What torchao and its work on the layers add to a process, measured with version 0.18: small models gain nothing by it.
NARROWING_BYTES = 40 * 2**20
TOGETHER = ("decode picture", "mux")
SPARE = 1.05  # of what is counted on a device: its allocator rounds up


@dataclass(frozen=True)
class PlannedStage:
    """peak_bytes: of the process on a CPU, of the device else. seconds: None where nothing was measured."""

    stage: Stage
    weight_bytes: int
    live_bytes: int
    peak_bytes: int
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """calibrated: how the figures came about, in words."""

    model: str
    setting: Setting
    parts: dict[str, Part]
    stages: tuple[PlannedStage, ...]
    load_seconds: float | None
    calibrated: str
    exact: bool

    @property
    def peak_bytes(self) -> int:
        return max(planned.peak_bytes for planned in self.stages)

    @property
    def tightest(self) -> PlannedStage:
        return max(self.stages, key=lambda planned: planned.peak_bytes)

    @property
    def seconds(self) -> float | None:
        parts = [self.load_seconds, *(planned.seconds for planned in self.stages)]
        return None if None in parts else sum(part for part in parts if part is not None)

    @property
    def flop(self) -> int:
        return sum(planned.stage.cost.flop for planned in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; bytes, seconds and FLOPs of the whole request."""
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "model": self.model,
            "device": self.setting.device,
            "dtype": str(self.setting.dtype).removeprefix("torch."),
            "economy": asdict(self.setting.economy),
            "processes": self.setting.processes,
            "calibration": self.calibrated,
            "calibrated": self.exact,
            "parts": {name: {"parameters": p.parameters, "bytes": p.bytes} for name, p in self.parts.items()},
            "stages": [_stage_dict(planned) for planned in self.stages],
            "load_seconds": self.load_seconds,
            "flop": self.flop,
            "peak_bytes": self.peak_bytes,
            "peak_stage": self.tightest.stage.name,
            "seconds": self.seconds,
        }


def _stage_dict(planned: PlannedStage) -> dict[str, Any]:
    stage, cost = planned.stage, planned.stage.cost
    return {
        "name": stage.name,
        "networks": list(stage.parts),
        "tokens": dict(stage.tokens),
        "shapes": {name: list(shape) for name, shape in stage.shapes.items()},
        "calls": stage.calls,
        "flop": cost.flop,
        "moved_bytes": cost.moved_bytes,
        "weight_bytes": planned.weight_bytes,
        "live_bytes": planned.live_bytes,
        "peak_bytes": planned.peak_bytes,
        "seconds": planned.seconds,
    }


def plan_request(
    request: ClipRequest,
    geometry: ClipGeometry,
    sketch: ModelSketch,
    setting: Setting,
    calibration: Calibration | None = None,
) -> Plan:
    """What the request would take in this setting. geometry: of what the model makes at once."""
    counted = stages_of(request, geometry, sketch, setting)
    return _plan(request, sketch, setting, counted, calibration)


def _plan(
    request: ClipRequest, sketch: ModelSketch, setting: Setting, counted: Counted, calibration: Calibration | None
) -> Plan:
    parts, stages = counted
    planned = tuple(_planned(request, parts, stages, setting, calibration))
    load = None
    if calibration is not None:
        loads = calibration.load_seconds
        load = loads.get("libraries", 0.0) + sum(loads.get(name, 0.0) for name in used_parts(stages))
    told, exact = _told(calibration, sketch, setting.economy)
    if setting.processes > 1:
        told, exact = f"{told}; what {setting.processes} processes exchange is not counted", False
    return Plan(sketch.folder.manifest.name, setting, parts, planned, load, told, exact)


def used_parts(stages: list[Stage]) -> list[str]:
    return list(dict.fromkeys(name for stage in stages for name in stage.parts))


def _told(calibration: Calibration | None, sketch: ModelSketch, economy: Economy) -> tuple[str, bool]:
    if calibration is None:
        return (
            "none on this machine: memory is an estimate, seconds are unknown; `sky4 bench calibrate` measures",
            False,
        )
    if economy.weights:
        return f"measured with wider weights; what {economy.weights} costs beside is an estimate", False
    if calibration.model_key == model_key(sketch):
        return f"measured on this machine with {calibration.model}", True
    return f"estimated from what was measured on this machine with another model, {calibration.model}", False


def _planned(
    request: ClipRequest,
    parts: dict[str, Part],
    stages: list[Stage],
    setting: Setting,
    calibration: Calibration | None,
) -> Iterator[PlannedStage]:
    loaded: dict[str, int] = {}
    kept = 0
    for stage, held in zip(stages, held_of(stages), strict=True):
        needed = {name: _resident(parts[name], setting) for name in stage.parts}
        loaded = needed if setting.economy.release else {**loaded, **needed}
        narrows = setting.economy.weights and setting.device == "cpu" and set(BLOCKS) & set(loaded)
        weights = sum(loaded.values()) + (NARROWING_BYTES if narrows else 0)
        peak = seconds = None
        if calibration is not None:
            peak = calibration.peak_bytes(stage.name, held.mapped, held.heap, weights, kept)
            if not setting.economy.release:  # which also gives back what the heap has kept
                kept = max(kept, calibration.heap_bytes(stage.name, held.heap))
            seconds = calibration.seconds(stage.name, stage.cost, request.variations)
            if seconds is not None:
                moved = sum(_moved_beside(parts[name], setting.economy) for name in stage.parts)
                seconds += stage.calls * moved / calibration.copy_bytes_per_second
        if peak is None:
            peak = _estimated_peak(setting, weights + held.live, calibration)
        yield PlannedStage(stage, weights, held.live, peak, seconds)


@dataclass(frozen=True)
class Held:
    """What a stage holds besides weights: at most at once, and of it in large and in small blocks."""

    live: int
    mapped: int
    heap: int


def held_of(stages: list[Stage]) -> list[Held]:
    """Of each stage. The picture is written while it is decoded, so these two go together."""
    own = {
        stage.name: Held(
            stage.call.peak_bytes + stage.held_bytes,
            stage.call.mapped_bytes + stage.held_bytes,
            stage.call.heap_bytes,
        )
        for stage in stages
    }
    nothing = Held(0, 0, 0)
    both = [own.get(name, nothing) for name in TOGETHER]
    together = Held(sum(h.live for h in both), sum(h.mapped for h in both), sum(h.heap for h in both))
    return [together if stage.name in TOGETHER else own[stage.name] for stage in stages]


def _moved_beside(part: Part, economy: Economy) -> int:
    """Bytes of a network's weights that each evaluation moves beside its own work."""
    if part.name in BLOCKS and economy.stream:
        return part.bytes
    return part.widened_bytes


def _resident(part: Part, setting: Setting) -> int:
    """Of a network's weights, what is in memory while it computes."""
    if part.name in BLOCKS and setting.economy.stream:
        return part.streamed_bytes
    if part.name in BLOCKS and setting.economy.shard:
        return shard_bytes(part, setting.processes)
    return part.bytes


def shard_bytes(part: Part, processes: int) -> int:
    """Of a network whose depths so many processes share: its part of them, and those that are whole at once."""
    return min(part.bytes, part.bytes // processes + part.streamed_bytes)


def _estimated_peak(setting: Setting, counted: int, calibration: Calibration | None) -> int:
    if setting.device != "cpu":
        return round(SPARE * counted) + CONTEXT_BYTES
    return counted + (LIBRARY_BYTES if calibration is None else calibration.library_bytes)


def economies(setting: Setting, chunk: bool, narrow: bool, eight: bool = False) -> Iterator[Setting]:
    """Settings that need less and less memory, the fastest first. narrow: whether bfloat16 may take float32's place;
    eight: whether weights may be int8."""
    steps = [Economy(weights=setting.economy.weights), Economy(release=True, weights=setting.economy.weights)]
    if setting.processes > 1 and not setting.economy.weights:
        steps.append(replace(steps[-1], shard=True))
    if chunk:
        steps.append(replace(steps[-1], chunk=1))
    steps.append(replace(steps[-1], apart=True))
    kinds = [setting.dtype] + ([torch.bfloat16] if narrow and setting.dtype == torch.float32 else [])
    for economy in steps:
        yield replace(setting, economy=economy)
    for dtype in kinds[1:]:
        yield replace(setting, economy=steps[-1], dtype=dtype)
    if setting.economy.weights:  # asked for; a stream of them is not
        return
    if eight:
        yield replace(setting, economy=replace(steps[-1], weights="int8", shard=False), dtype=kinds[-1])
    yield replace(setting, economy=replace(steps[-1], stream=True, shard=False), dtype=kinds[-1])


def plan_within(
    limit: int,
    request: ClipRequest,
    geometry: ClipGeometry,
    sketch: ModelSketch,
    setting: Setting,
    calibrations: dict[torch.dtype, Calibration | None],
    narrow: bool,
    eight: bool = False,
) -> Plan:
    """The plan of the fastest setting within `limit` bytes. DoesNotFit, naming the stage, where none is."""
    least: Plan | None = None
    known: dict[tuple[torch.dtype, bool, int | None, str], Counted] = {}
    guided = request.guidance != 1 or request.audio_guidance != 1
    for tried in economies(setting, request.wants_video, narrow, eight):
        economy = tried.economy
        if economy.apart and not (economy.stream or economy.weights) and not guided:
            continue
        counts = tried.dtype, economy.apart, economy.chunk, economy.weights  # nothing else changes what is counted
        if counts not in known:
            known[counts] = stages_of(request, geometry, sketch, tried)
        made = _plan(request, sketch, tried, known[counts], calibrations.get(tried.dtype))
        if made.peak_bytes <= limit:
            return made
        if least is None or made.peak_bytes < least.peak_bytes:
            least = made
    assert least is not None
    raise DoesNotFit(
        f"--memory {limit / 2**30:.2f}G: the clip needs {least.peak_bytes / 2**30:.2f}G even where "
        f"{least.setting.economy.words}, most of it in the stage '{least.tightest.stage.name}'; "
        "lower --size or --frames, or allow more"
    )
