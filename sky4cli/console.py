"""What a command says: progress with time left and notes to stderr, results to stdout."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_SECONDS = 10.0  # between two plain progress lines of one stage


class Reporter:
    """Use as a context; `stage` is the pipeline's progress callback."""

    def __init__(self, *, quiet: bool, as_json: bool) -> None:
        self._as_json = as_json
        self._quiet = quiet
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._started = self._said = 0.0
        self._log = _Notes(self)

    def __enter__(self) -> Reporter:
        # the library logs each automatic choice once, such as the attention backend
        logging.getLogger("sky4").addHandler(self._log)
        logging.getLogger("sky4").setLevel(logging.INFO)
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self._bars = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("sky4").removeHandler(self._log)
        if self._bars is not None:
            self._bars.stop()

    def stage(self, name: str, done: int, total: int) -> None:
        """`done` of `total` pieces of the stage `name` are made."""
        if self._quiet:
            return
        if self._bars is not None:
            if name != self._stage or self._task is None:
                if self._task is not None:
                    self._bars.remove_task(self._task)  # one bar at a time: the stage under way
                self._task = self._bars.add_task(name, total=total)
            self._bars.update(self._task, completed=done, total=total)
            self._stage = name
            return
        now = time.monotonic()
        if name != self._stage:
            self._stage, self._started, self._said = name, now, now
            print(name, file=sys.stderr, flush=True)
        elif now - self._said >= PLAIN_SECONDS and 0 < done < total:
            left = (now - self._started) / done * (total - done)
            print(f"{name} {done}/{total}, {left:.0f} s left", file=sys.stderr, flush=True)
            self._said = now

    def note(self, text: str) -> None:
        """Something worth knowing that is no result."""
        if self._quiet:
            return
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def result(self, line: str) -> None:
        """A finished piece of work, for people."""
        if self._as_json:
            return
        if self._bars is not None:
            self._bars.stop()  # two streams share the terminal: the bars give way to the line
        print(line, flush=True)
        if self._bars is not None:
            self._bars.start()

    def record(self, values: dict[str, Any]) -> None:
        """The whole result, for programs: one line, the last."""
        if self._as_json:
            print(json.dumps(values, separators=(",", ":")), flush=True)


class _Notes(logging.Handler):
    """Log records as notes."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        self._reporter.note(record.getMessage())
