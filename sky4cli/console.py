"""What a command says: progress with time left and notes to stderr, results to stdout."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sky4.distributed.meeting import is_first
from sky4.errors import RequestError

if TYPE_CHECKING:
    from PIL import Image
    from rich.progress import Progress, TaskID

    from sky4.pipeline.events import EventLog

PLAIN_SECONDS = 10.0  # between two plain progress lines of one stage


class Reporter:
    """Use as a context; `stage` is the pipeline's progress callback.

    events: what --events says: the same is then told to programs, and `-` has stdout for itself. command: its name.
    RequestError where that cannot be. Of several processes the first alone says anything.
    """

    def __init__(self, *, quiet: bool, as_json: bool, events: str | None = None, command: str = "") -> None:
        if events == "-" and as_json:
            raise RequestError("--events - and --json both write to stdout; name a file for the events")
        self._mute = not is_first()
        self._as_json = as_json
        self._where, self._command = None if self._mute else events, command
        self._events: EventLog | None = None
        self._quiet = quiet or self._mute
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._started = self._said = 0.0
        self._log = _Notes(self)

    def __enter__(self) -> Reporter:
        if self._where is not None:
            from sky4.pipeline.events import EventLog, open_events

            self._events = EventLog(open_events(self._where), self._command)
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger("sky4").removeHandler(self._log)
        if self._bars is not None:
            self._bars.stop()
        if self._events is not None:
            self._events.__exit__(kind, error, trace)

    def stage(self, name: str, done: int, total: int) -> None:
        """`done` of `total` pieces of the stage `name` are made."""
        if self._events is not None:
            self._events.stage(name, done, total)
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
        if self._events is not None:
            self._events.warning(text.removeprefix("note: "))
        if self._quiet:
            return
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def result(self, line: str) -> None:
        """A finished piece of work, for people."""
        if self._as_json or self._mute:
            return
        if self._bars is not None:
            self._bars.stop()  # two streams share the terminal: the bars give way to the line
        print(line, file=sys.stderr if self._where == "-" else sys.stdout, flush=True)
        if self._bars is not None:
            self._bars.start()

    def made(self, path: Path, details: Mapping[str, Any]) -> None:
        """A clip is there; for the events alone."""
        if self._events is not None:
            self._events.artifact("clip", path, details)

    def preview(self, path: Path, sheet: Image.Image, step: int, steps: int) -> None:
        """A preview is there; shown where the terminal can."""
        if self._events is not None:
            self._events.artifact("preview", path, {"step": step, "steps": steps})
        if self._bars is None:  # quiet, or no terminal
            return
        from sky4cli.terminal import picture, protocol_of

        protocol = protocol_of()
        if protocol is not None:
            self._bars.stop()
            sys.stderr.write(picture(sheet, protocol))
            sys.stderr.flush()
            self._bars.start()

    def record(self, values: dict[str, Any]) -> None:
        """The whole result, for programs: one line, the last."""
        if self._as_json and not self._mute:
            print(json.dumps(values, separators=(",", ":")), flush=True)


class _Notes(logging.Handler):
    """Log records as notes."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        self._reporter.note(record.getMessage())
