"""A Chrome trace of everything that was measured: each call once more, after its timing, under torch's profiler."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from sky4.bench.timing import named_range


class Trace:
    """Profiles calls one by one, so that what lies between them costs nothing; without a path it does nothing."""

    def __init__(self, path: Path | None, device: torch.device) -> None:
        self._path, self._device = path, device
        self._merged: dict[str, Any] = {}
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's library tells of every start and stop

    def __call__(self, case: str, subject: str, call: Callable[[], Any]) -> None:
        """Profile one call under the name of its row."""
        if self._path is None:
            return
        cuda = self._device.type == "cuda"
        name = f"{case}: {subject}"
        with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda) as taken:
            with record_function(name), named_range(name, self._device):
                call()
            if cuda:
                torch.cuda.synchronize(self._device)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "one.json"
            taken.export_chrome_trace(str(file))
            found = json.loads(file.read_text("utf-8"))
        if not self._merged:
            self._merged = found
        else:
            self._merged["traceEvents"] += found["traceEvents"]

    def write(self) -> None:
        """All calls in one file, where there were any and a path was given."""
        if self._path is not None and self._merged:
            self._path.write_text(json.dumps(self._merged), "utf-8")
