"""What `--dry-run` prints and `--memory` decides: a request's plan, before any weight is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sky4.pipeline.model_folder import ModelFolder
    from sky4.planning.plan import Plan
    from sky4.planning.sketch import ModelSketch
    from sky4cli.console import Reporter

GIB = 2**30


def tell(plan: Plan, reporter: Reporter) -> None:
    """The plan as a table, or as JSON."""
    for line in table(plan):
        reporter.result(line)
    reporter.record({"plan": plan.to_dict()})


def table(plan: Plan) -> list[str]:
    """The plan's lines."""
    setting = plan.setting
    dtype = str(setting.dtype).removeprefix("torch.")
    each = f", {setting.processes} processes, of each of which this is" if setting.processes > 1 else ""
    lines = [f"{plan.model} in {dtype} on {setting.device}{each}; {setting.economy.words}"]
    counted = ", ".join(f"{name.replace('_', ' ')} {part.parameters:,}" for name, part in plan.parts.items())
    lines += [f"parameters: {counted}", ""]
    rows = [("stage", "tokens and shapes", "calls", "FLOPs", "peak memory", "seconds")]
    for planned in plan.stages:
        stage = planned.stage
        rows.append(
            (
                stage.name,
                _sizes(stage.tokens, stage.shapes),
                str(stage.calls),
                quantity(stage.cost.flop),
                f"{planned.peak_bytes / GIB:.2f}G",
                _seconds(planned.seconds),
            )
        )
    if plan.load_seconds is not None:
        rows.append(("loading", "", "", "", "", _seconds(plan.load_seconds)))
    peak = f"{plan.peak_bytes / GIB:.2f}G"
    rows.append(("all", f"peak in '{plan.tightest.stage.name}'", "", quantity(plan.flop), peak, _seconds(plan.seconds)))
    return lines + aligned(rows, right=(2, 3, 4, 5)) + ["", f"calibration: {plan.calibrated}"]


def aligned(rows: Sequence[tuple[str, ...]], right: tuple[int, ...]) -> list[str]:
    """Rows as lines, in columns; those numbered in `right` end together."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def quantity(value: float) -> str:
    """A number of FLOPs, bytes or the like with its prefix: 12.3 G."""
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.1f} {prefix}"
    return f"{value:.0f}"


def _sizes(tokens: Any, shapes: Any) -> str:
    said = [f"{count:,} {name}" for name, count in tokens.items()]
    said += [f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items()]
    return ", ".join(said)


def _seconds(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds:.2f}" if seconds < 10 else f"{seconds:.0f}"


def sketch_of(folder: ModelFolder, preset: str | None) -> ModelSketch:
    """Of the folder, or of the preset that it stands for."""
    from sky4.planning.presets import preset_sketch
    from sky4.planning.sketch import ModelSketch

    return ModelSketch.read(folder) if preset is None else preset_sketch(preset)
