"""One run of `sky4 bench`: what all its commands share from the options to the last line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from sky4.bench import cases, ours
from sky4.bench.machine import Roofs, environment
from sky4.bench.plot import check_plot, write_plot
from sky4.bench.record import (
    Document,
    NotRun,
    Row,
    check_comparable,
    compare,
    parse_percent,
    read_document,
)
from sky4.bench.timing import stopwatch_for
from sky4.bench.trace import Trace
from sky4.errors import RequestError, Sky4Failure
from sky4.files import replacing
from sky4.pipeline.components import Components
from sky4.pipeline.devices import choose_device, choose_dtype, use_threads
from sky4.pipeline.model_folder import BUNDLED
from sky4cli.bench_table import show_changes, show_document
from sky4cli.console import Reporter

WORTH_COMPILING = 1e11  # flop: a case that small is over before the compiler has begun


class BenchSession:
    """Use as a context: what the command measured is shown, written and compared when it ends without an error.

    options: the command line's values by parameter. Everything that can be refused is refused here, before anything
    is measured.
    """

    def __init__(self, command: str, options: Mapping[str, Any]) -> None:
        self._options = options
        self._check()
        device = choose_device(options["device"])
        ours.check_backend("--attention-backend", options["attention_backend"])
        self._threads = use_threads(options["threads"])
        self.setting = cases.Setting(
            device,
            choose_dtype(options["dtype"], device),
            options["seed"],
            options["attention_backend"],
            _compile_from(device, options.get("compiled")),
        )
        self._document = Document(command, environment(device, self.setting.dtype, self.setting.seed), {})
        self._baseline = None
        if (path := options["baseline"]) is not None:
            self._baseline = read_document(path)
            check_comparable(self._document.environment, command, self._baseline, path)
        self.told: dict[str, Any] = {"attention_backend": self.setting.backend}
        self.rows: list[Row] = self._document.rows
        self.not_run: list[NotRun] = self._document.not_run
        self.trace = Trace(options["profile"], device)
        self._reporter = Reporter(quiet=options["quiet"], as_json=options["as_json"])

    def _check(self) -> None:
        options = self._options
        budget, threads, seed = options.get("budget"), options["threads"], options["seed"]
        if budget is not None and not 1 <= budget <= 86_400:
            raise RequestError(f"--budget {budget:g} is outside 1 to 86400 seconds; 120 is usual")
        if threads is not None and not 1 <= threads <= 4096:
            raise RequestError(f"--threads {threads} is outside 1 to 4096; one per core is usual")
        if not 0 <= seed < 2**63:
            raise RequestError(f"--seed {seed} is outside 0 to 2^63 - 1; 0 is usual")
        if options["fail_over"] is not None:
            self._allowed = parse_percent(options["fail_over"])
            if options["baseline"] is None:
                raise RequestError(f"--fail-over {options['fail_over']} compares with a --baseline; add it")
        if options.get("plot") is not None:
            check_plot(options["plot"])
        for flag in ("out", "plot", "profile"):
            if (path := options.get(flag)) is not None:
                _check_target(f"--{flag}", path, options["force"])

    def __enter__(self) -> BenchSession:
        self._reporter.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reporter.__exit__(kind, error, trace)
        if kind is None:
            self._finish()

    @property
    def say(self) -> Callable[[str, int, int], None]:
        return self._reporter.stage

    def components(self, model: Path | None, dtype: str | None = None) -> Components:
        """The networks of a model folder, in this run's dtype or another, on its device and attention backend."""
        wanted = dtype or str(self.setting.dtype).removeprefix("torch.")
        return Components.load(model or BUNDLED, str(self.setting.device), wanted, self.setting.backend, self._threads)

    def run_cases(self, todo: Sequence[cases.Case], budget: float, dtypes: Sequence[torch.dtype] | None = None) -> None:
        """Measure them beside the roofs of the machine. dtypes: those of the cases, where it is not the run's alone."""
        stopwatch = stopwatch_for(self.setting.device)
        roofs = Roofs(self.setting.device, dtypes or [self.setting.dtype], stopwatch)
        rows, not_run = cases.run_cases(todo, self.setting, stopwatch, roofs, budget, self.say, self.trace)
        self.rows += rows
        self.not_run += not_run
        self._document.roofs += [roof.to_dict() for roof in roofs.all]
        self.told |= {"budget_seconds": budget, "flex_compiled_from_flop": _finite(self.setting.compile_from)}

    def _finish(self) -> None:
        options, document = self._options, self._document
        document.settings = self.told
        if self._baseline is not None:
            document.changes = compare(document.rows, self._baseline)
        if (out := options["out"]) is not None:
            _write(out, json.dumps(document.to_dict(), indent=1) + "\n")
        self.trace.write()
        if options["as_json"]:
            self._reporter.record(document.to_dict())
        else:
            show_document(document)
        if options.get("plot") is not None:
            write_plot(document, options["plot"])
        if self._baseline is None:
            return
        if not options["as_json"]:
            show_changes(document.changes)
        if options["fail_over"] is not None:
            slower = [change for change in document.changes if change.share > self._allowed]
            if slower:
                worst = max(slower, key=lambda change: change.share)
                raise Sky4Failure(
                    f"{len(slower)} of {len(document.changes)} rows are slower than --fail-over {options['fail_over']} "
                    f"allows; most of all {worst.case}, by {100 * worst.share:.1f} %"
                )


def _compile_from(device: torch.device, wanted: bool | None) -> float:
    """Flop of a case from which on FlexAttention is compiled for it."""
    if wanted is None:
        return WORTH_COMPILING if device.type == "cuda" else math.inf
    return 0.0 if wanted else math.inf


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _write(path: Path, text: str) -> None:
    try:
        with replacing(path) as partial:
            partial.write_text(text, "utf-8")
    except OSError as error:
        raise Sky4Failure(f"--out {path} could not be written: {error.strerror}; choose another place") from error


def _check_target(flag: str, path: Path, force: bool) -> None:
    if path.is_dir():
        raise RequestError(f"{flag} {path} is a folder; name a file")
    if path.exists() and not force:
        raise RequestError(f"{flag} {path} exists already; choose another name or --force")
    if not path.absolute().parent.is_dir():
        raise RequestError(f"{flag} {path}: there is no folder {path.parent}; make it first")
