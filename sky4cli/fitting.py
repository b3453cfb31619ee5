"""Whether a request fits: the engine as its plan has it, and the model's folder or a preset that stands for one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sky4cli.console import Reporter
from sky4cli.planned import Engine
from sky4cli.startup import load_libraries

if TYPE_CHECKING:
    from sky4.pipeline.model_folder import ModelFolder
    from sky4.pipeline.request import ClipRequest


def folder_of(model: Path, preset: str | None) -> ModelFolder:
    """The model's folder, or what stands for one of a preset, without weights."""
    from sky4.pipeline.model_folder import ModelFolder

    if preset is None:
        return ModelFolder.read(model)
    from sky4.planning.presets import preset_folder

    return preset_folder(preset)


def planned_engine(request: ClipRequest, folder: ModelFolder, engine: Engine, reporter: Reporter) -> Engine:
    """The engine as the plan has it; the plan is told where nothing else is wanted. DoesNotFit where nothing fits."""
    from sky4.pipeline.validate import validate

    geometry = validate(request, folder)
    reporter.stage("planning", 0, 1)
    load_libraries()
    from sky4.planning.fitting import engine_of, plan_of
    from sky4cli.dry_run import sketch_of, tell

    if engine.preset is not None:
        from sky4cli.paper import tell_preset

        tell_preset(request, geometry, sketch_of(folder, engine.preset), reporter)
        return engine
    plan = plan_of(request, geometry, sketch_of(folder, None), engine)
    setting = plan.setting
    if engine.dry_run:
        tell(plan, reporter)
    else:
        reporter.note(f"note: {plan.peak_bytes / 2**30:.2f}G are expected; {setting.economy.words}")
    return engine_of(plan, engine)
