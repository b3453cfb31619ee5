"""What became of each job: lines appended to journal.jsonl, each with a checksum, none ever changed.

A process may be killed at any byte: the line that it leaves cut is skipped by every reader, and the next writer begins
on a line of its own. Writers take turns by a lock, as NFS does not append atomically.
"""

from __future__ import annotations

import errno
import json
import os
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sky4.batch.locks import Locks
from sky4.errors import Sky4Failure

NAME = "journal.jsonl"
VERSION = 1
EVENTS = ("started", "done", "failed")
LOCK = "journal"
WAIT_SECONDS = 0.02

Event = Literal["started", "done", "failed"]


@dataclass
class History:
    """What the journal tells of one job. last: the latest line; done: the latest of a clip that was finished."""

    last: dict[str, Any] = field(default_factory=dict)
    done: dict[str, Any] | None = None


class Journal:
    """The journal of one folder of outputs, as far as it has been read."""

    def __init__(self, folder: Path, pause: Callable[[float], None] = time.sleep) -> None:
        self.path = folder / NAME
        self.skipped = 0  # lines that could not be read
        self._jobs: dict[str, History] = {}
        self._read = 0  # bytes
        self._pause = pause

    def of(self, name: str) -> History:
        """What is known of a job, by its output's name."""
        return self._jobs.get(name, History())

    def refresh(self) -> None:
        """Read what has been appended since. Sky4Failure where the file cannot be read."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise Sky4Failure(f"'{self.path}' cannot be read ({error.strerror}); see to it and start again") from error
        whole, newline, _ = new.rpartition(b"\n")  # what follows is being written, or was cut
        self._read += len(whole) + len(newline)
        for line in whole.split(b"\n"):
            if line.strip():
                self._take(line)

    def append(self, locks: Locks, event: Event, job: str, key: str, **told: Any) -> dict[str, Any]:
        """Write a line and return it. OSError where it cannot be written whole; a cut line does no harm."""
        record = {
            "version": VERSION,
            "event": event,
            "job": job,
            "key": key,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "by": locks.owner.name,
            **told,
        }
        line = _sealed(record)
        while (held := locks.acquire(LOCK)) is None:
            self._pause(WAIT_SECONDS)
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    line = b"\n" + line
                _write_all(descriptor, line)
                _sync(descriptor)
            finally:
                os.close(descriptor)
        finally:
            locks.release(held)
        self._apply(record)
        return record

    def _take(self, line: bytes) -> None:
        record = _opened(line)
        if record is None:
            self.skipped += 1
        else:
            self._apply(record)

    def _apply(self, record: dict[str, Any]) -> None:
        history = self._jobs.setdefault(record["job"], History())
        history.last = record
        if record["event"] == "done":
            history.done = record


def _write_all(descriptor: int, line: bytes) -> None:
    while line:
        line = line[os.write(descriptor, line) :]


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):  # a file system that knows no fsync
            raise


def _sealed(record: dict[str, Any]) -> bytes:
    """The line of a record: JSON that ends in the checksum of what stands before it."""
    text = json.dumps(record, ensure_ascii=True, separators=(",", ":"), allow_nan=False)[:-1]
    return f'{text},"crc":"{zlib.crc32(text.encode()):08x}"}}\n'.encode()


def _opened(line: bytes) -> dict[str, Any] | None:
    """None for a line that was cut, mixed with another, or written by a later version."""
    text, _, seal = line.rstrip(b"\r").rpartition(b',"crc":"')
    if seal != f'{zlib.crc32(text):08x}"}}'.encode():
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    known = isinstance(record, dict) and record.get("version") == VERSION and record.get("event") in EVENTS
    return record if known and isinstance(record.get("job"), str) and isinstance(record.get("key"), str) else None
