"""Which weights compute where, as asked for. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # names of precisions that users know too


@dataclass(frozen=True)
class Engine:
    """A model folder and how to compute with it; "auto" takes the best that the machine has.

    threads: of the CPU; None takes one per physical core.
    """

    model: Path
    device: str = "auto"
    dtype: str = "auto"
    attention_backend: str = "auto"
    threads: int | None = None
