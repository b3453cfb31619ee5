"""Which weights compute where, as asked for. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sky4.pipeline.economy import NO_ECONOMY, Economy

SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # names of precisions that users know too


@dataclass(frozen=True)
class Engine:
    """A model folder and how to compute with it; "auto" takes the best that the machine has.

    threads: of the CPU; None takes one per physical core. memory: bytes that must suffice; None: as much as it takes.
    dry_run: nothing is computed. economy: how memory is saved where nothing is said of it. preset: plan with this
    instead of the model's folder.
    """

    model: Path
    device: str = "auto"
    dtype: str = "auto"
    attention_backend: str = "auto"
    threads: int | None = None
    memory: int | None = None
    dry_run: bool = False
    economy: Economy = NO_ECONOMY
    preset: str | None = None
