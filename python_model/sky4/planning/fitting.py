"""How a request is computed within a limit of memory: the plan for an engine, and the engine as its plan has it."""

from __future__ import annotations

from dataclasses import replace

import torch

from sky4.distributed.meeting import several
from sky4.geometry import ClipGeometry
from sky4.model.eight_bit import is_installed
from sky4.pipeline.devices import DTYPES, choose_device, choose_precision, use_threads
from sky4.pipeline.engine import Engine
from sky4.pipeline.request import ClipRequest
from sky4.planning.calibration import find, model_key
from sky4.planning.measuring import facts_of
from sky4.planning.plan import Plan, plan_request, plan_within
from sky4.planning.sketch import ModelSketch
from sky4.planning.work import Setting

KINDS = ("float32", "bfloat16")  # that --memory may choose between where --dtype is left to it


def plan_of(request: ClipRequest, geometry: ClipGeometry, sketch: ModelSketch, engine: Engine) -> Plan:
    """On the engine's device, within its memory. DoesNotFit where nothing does."""
    device = choose_device(engine.device)
    dtype, weights = choose_precision(engine.dtype, device)
    economy = replace(engine.economy, weights=weights) if weights else engine.economy
    threads, key = use_threads(engine.threads), model_key(sketch)
    setting = Setting(device.type, dtype, economy, several())
    known = {kind: find(facts_of(device, kind, threads), key) for kind in {dtype, *(DTYPES[name] for name in KINDS)}}
    if engine.memory is None:
        return plan_request(request, geometry, sketch, setting, known[dtype])
    narrow = engine.dtype == "auto" and dtype == torch.float32
    eight = engine.dtype == "auto" and is_installed()
    return plan_within(engine.memory, request, geometry, sketch, setting, known, narrow, eight)


def engine_of(plan: Plan, engine: Engine) -> Engine:
    """The engine with what the plan has chosen."""
    return replace(
        engine, dtype=str(plan.setting.dtype).removeprefix("torch."), economy=plan.setting.economy, memory=None
    )
