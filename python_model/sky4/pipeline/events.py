"""What happens in a run, as JSON lines for programs: EVENTS.md beside this file says what stands in them. No torch.

Lines are flushed one by one, so that a reader sees each at once and a killed run leaves whole lines but for the last.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TextIO

from sky4 import __version__
from sky4.errors import RequestError

SCHEMA, VERSION = "sky4-events", 1

_TEXT, _COUNT, _NUMBER = str, int, int | float
# Every event has these, and its own below; None stands for what is not known or does not apply.
COMMON: dict[str, type | UnionType] = {"event": _TEXT, "time": _NUMBER, "pid": _COUNT}
FIELDS: dict[str, dict[str, type | UnionType]] = {
    "start": {"schema": _TEXT, "version": _COUNT, "sky4": _TEXT, "command": _TEXT},
    "stage": {"stage": _TEXT, "total": _COUNT},
    "step": {"stage": _TEXT, "done": _COUNT, "total": _COUNT, "seconds": _NUMBER, "eta": _NUMBER | None},
    "memory": {"stage": _TEXT, "peak_bytes": _COUNT | None, "device_peak_bytes": _COUNT | None},
    "warning": {"message": _TEXT},
    "artifact": {"kind": _TEXT, "path": _TEXT, "details": dict},
    "end": {"ok": bool, "code": _COUNT, "error": _TEXT | None, "seconds": _NUMBER},
}
KINDS = ("clip", "preview")

log = logging.getLogger("sky4")


def read_event(line: str) -> dict[str, Any]:
    """One line of a log as its values. ValueError where it is not as EVENTS.md says."""
    values = json.loads(line)
    if not isinstance(values, dict) or values.get("event") not in FIELDS:
        raise ValueError(f"no event of this schema: {line[:80]!r}")
    wanted = COMMON | FIELDS[values["event"]]
    if set(values) != set(wanted):
        raise ValueError(f"{values['event']}: the fields {sorted(set(values) ^ set(wanted))} are missing or unknown")
    for name, kind in wanted.items():
        value = values[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{values['event']}.{name}: {value!r} is of another type")
    if values["event"] == "start" and (values["schema"], values["version"]) != (SCHEMA, VERSION):
        raise ValueError(f"written by {values['schema']} {values['version']}, this sky4 reads {SCHEMA} {VERSION}")
    if values["event"] == "artifact" and values["kind"] not in KINDS:
        raise ValueError(f"artifact.kind: {values['kind']!r} is none of {', '.join(KINDS)}")
    return values


class EventLog:
    """Writes a run's events; use as a context, which writes the last one. A reader that goes away ends the log with a
    note, not the run."""

    def __init__(self, stream: TextIO, command: str) -> None:
        self._stream: TextIO | None = stream
        self._stage = ""
        self._total = self._first = 0
        self._began = self._stage_began = time.monotonic()
        self._write("start", schema=SCHEMA, version=VERSION, sky4=__version__, command=command)

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._leave()
        code = 0 if error is None else exit_code(error)
        told = None if error is None else " ".join(str(error).split()) or type(error).__name__
        self._write("end", ok=error is None, code=code, error=told, seconds=_rounded(time.monotonic() - self._began))
        if self._stream is not None and self._stream is not sys.stdout:
            self._stream.close()

    def stage(self, name: str, done: int, total: int) -> None:
        """`done` of `total` pieces of a stage are made: the pipeline's progress callback."""
        now = time.monotonic()
        if name != self._stage:
            self._leave()
            # a run that is gone on from begins in the middle of its stage
            self._stage, self._total, self._first, self._stage_began = name, total, done, now
            self._write("stage", stage=name, total=total)
        took, made = now - self._stage_began, done - self._first
        eta = _rounded(took / made * (total - done)) if made > 0 else None
        self._write("step", stage=name, done=done, total=total, seconds=_rounded(took), eta=eta)

    def warning(self, message: str) -> None:
        self._write("warning", message=message)

    def artifact(self, kind: str, path: Path, details: Mapping[str, Any] | None = None) -> None:
        """A file that is there now. details: JSON values, of a clip what `--json` tells of it."""
        self._write("artifact", kind=kind, path=str(path), details=dict(details or {}))

    def _leave(self) -> None:
        """The memory of the stage that ends."""
        if self._stage:
            self._write("memory", stage=self._stage, peak_bytes=_peak(), device_peak_bytes=_device_peak())
        self._stage = ""

    def _write(self, event: str, **values: Any) -> None:
        if self._stream is None:
            return
        line = {"event": event, "time": round(time.time(), 3), "pid": os.getpid(), **values}
        try:
            self._stream.write(json.dumps(line, separators=(",", ":")) + "\n")
            self._stream.flush()
        except OSError as error:
            self._stream = None
            log.warning(f"--events: no more can be written ({error.strerror}); the run goes on without")


def exit_code(error: BaseException) -> int:
    """What the command ends with, as far as the error itself tells."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    return int(getattr(error, "exit_code", 2 if isinstance(error, RequestError) else 1))


def open_events(where: str) -> TextIO:
    """The stream that `--events` names: a file (added to), `-` for stdout, `fd:N`. RequestError with the remedy."""
    if where == "-":
        return sys.stdout
    if where.startswith("fd:"):
        return _descriptor(where)
    path = Path(where)
    try:
        if path.is_file() and path.stat().st_size:
            _require_log(path)
        stream = path.open("a", encoding="utf-8")
        if stat.S_ISREG(os.fstat(stream.fileno()).st_mode) and _is_cut(path):
            stream.write("\n")  # behind the line in which a killed run was
        return stream
    except OSError as error:
        raise RequestError(f"--events {where} cannot be written ({error.strerror}); name another file") from error


def _descriptor(where: str) -> TextIO:
    number = where.removeprefix("fd:")
    if not number.isdecimal() or int(number) <= 2:
        raise RequestError(f"--events {where}: name a descriptor from 3 up, such as fd:3 with 3>events.jsonl")
    try:
        if not _is_writable(int(number)):
            raise OSError
        return os.fdopen(os.dup(int(number)), "w", encoding="utf-8")
    except (OSError, OverflowError) as error:
        raise RequestError(f"--events {where} is not open for writing; add {number}>events.jsonl") from error


def _is_writable(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows finds out when it writes
        return True
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def _require_log(path: Path) -> None:
    """RequestError for a file that is something else: lines are added to a log, and to nothing else."""
    with path.open("rb") as file:
        first = file.readline(4096)
    try:
        if read_event(first.decode())["event"] == "start":
            return
    except ValueError:  # of json, UTF-8 and read_event
        pass
    raise RequestError(f"--events {path} exists and is no log of sky4, so nothing is added to it; name another file")


def _is_cut(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _peak() -> int | None:
    """Bytes: the most that this process has held; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _device_peak() -> int | None:
    torch = sys.modules.get("torch")  # loaded or not, that is others' affair
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_allocated())


def _rounded(seconds: float) -> float:
    return round(seconds, 3)
