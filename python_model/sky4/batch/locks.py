"""One holder at a time, between processes and machines: files that are linked into place, kept fresh, and outlived.

A lock is a folder of numbered files; the highest number tells who holds it. A new holder links the next number, which
the file system (NFS too) grants to one alone. The highest file is never removed, only marked free, so that whoever
looked earlier and links an old number finds a higher one there and gives way. Times of different machines are never
compared: a lock is stale when its file has not changed for the lease on the looker's own clock, or at once where its
holder was a process of this machine that is gone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LEASE_SECONDS = 60.0
BEATS_IN_A_LEASE = 6
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True)
class Owner:
    """A process: where it runs, its number and start, and a token that no other has."""

    host: str
    pid: int
    start: str
    token: str

    @classmethod
    def here(cls) -> Owner:
        pid = os.getpid()
        return cls(_host(), pid, _start_of(pid), uuid.uuid4().hex[:12])

    @property
    def name(self) -> str:
        return f"{self.host.partition('/')[0]}:{self.pid}:{self.token}"

    def is_gone(self) -> bool:
        """Whether this was a process of this machine that runs no more. False where that cannot be known."""
        if self.host != _host():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return _start_of(self.pid) != self.start  # the number went to another process


@dataclass
class Held:
    """A lock that this process holds, until `release` or until `lost` turns true."""

    name: str
    path: Path
    generation: int
    lost: bool = False


@dataclass
class Locks:
    """Locks by name below one folder. Use as a context: it keeps what is held fresh, and frees it in the end.

    lease: seconds without a sign of life after which a lock may be taken over.
    """

    folder: Path
    owner: Owner = field(default_factory=Owner.here)
    lease: float = LEASE_SECONDS
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._held: dict[str, Held] = {}
        self._guard = threading.Lock()
        self._seen: dict[str, tuple[int, int, float]] = {}  # name -> generation, its file's time, since when
        self._ended = threading.Event()
        self._pulse: threading.Thread | None = None

    def __enter__(self) -> Locks:
        self._pulse = threading.Thread(target=self._beat, name="sky4-locks", daemon=True)
        self._pulse.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._pulse is not None:
            self._pulse.join()
        for held in list(self._held.values()):
            self.release(held)

    def acquire(self, name: str) -> Held | None:
        """The lock, or None where another holds it. OSError where the folder cannot be written."""
        folder = self._folder_of(name)
        folder.mkdir(parents=True, exist_ok=True)
        top = _top(folder)
        if top and not self._may_follow(name, folder / str(top), top):
            return None
        mine = folder / str(top + 1)
        if not self._place(folder, mine):
            return None
        if _top(folder) > top + 1:  # others came by since we looked
            mine.unlink(missing_ok=True)
            return None
        self._seen.pop(name, None)
        _sweep(folder, mine, top + 1, self.lease)
        held = Held(name, mine, top + 1)
        with self._guard:
            self._held[name] = held
        return held

    def holds(self, held: Held) -> bool:
        """Whether the lock is still ours, by a look at the disk."""
        held.lost = held.lost or _top(held.path.parent) != held.generation
        return not held.lost

    def release(self, held: Held) -> None:
        """Give the lock back; what cannot be written is left to the lease."""
        with self._guard:
            self._held.pop(held.name, None)
        if not held.lost:
            with suppress(OSError):
                partial = held.path.with_name(f".{held.generation}.{self.owner.token}")
                partial.write_text(json.dumps({"free": True}), "utf-8")
                partial.replace(held.path)

    def _folder_of(self, name: str) -> Path:
        return self.folder / hashlib.sha256(name.encode()).hexdigest()[:32]

    def _may_follow(self, name: str, path: Path, generation: int) -> bool:
        """Whether the holder of the highest number is free, gone or silent for a lease."""
        try:
            changed = path.stat().st_mtime_ns
            written: Any = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return False  # just taken over; look again later
        except (OSError, ValueError):
            written = None  # cut by a crash of its machine: only the lease tells
        if isinstance(written, dict) and written.get("free"):
            return True
        owner = _owner(written)
        if owner is not None and owner.token == self.owner.token:
            return False
        if owner is not None and owner.is_gone():
            return True
        before = self._seen.get(name)
        if before is None or before[:2] != (generation, changed):
            self._seen[name] = (generation, changed, self.clock())
            return False
        return self.clock() - before[2] >= self.lease

    def _place(self, folder: Path, path: Path) -> bool:
        """Put our file at `path` unless one is there."""
        own = folder / f".{self.owner.token}"
        own.write_text(json.dumps(asdict(self.owner)), "utf-8")
        try:
            os.link(own, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno in NO_LINKS:
                return _exclusive(path, own.read_bytes())
            if own.stat().st_nlink != 2:  # NFS may say no to a link that it has made
                raise
        finally:
            own.unlink(missing_ok=True)
        return True

    def _beat(self) -> None:
        while not self._ended.wait(self.lease / BEATS_IN_A_LEASE):
            with self._guard:
                held = list(self._held.values())
            for one in held:
                try:
                    os.utime(one.path)
                    one.lost = one.lost or _top(one.path.parent) != one.generation
                except FileNotFoundError:
                    one.lost = True
                except OSError:
                    continue  # a file system that is away for a moment; the lease bears it


def _top(folder: Path) -> int:
    """The highest number in the folder; 0 for none."""
    try:
        return max((int(name) for name in os.listdir(folder) if name.isdecimal()), default=0)
    except FileNotFoundError:
        return 0


def _sweep(folder: Path, mine: Path, generation: int, lease: float) -> None:
    """Remove lower numbers, and what crashed processes left: dated by the same file system as ours."""
    now = mine.stat().st_mtime
    for name in os.listdir(folder):
        old = name.isdecimal() and int(name) < generation
        with suppress(OSError):
            if old or (name.startswith(".") and now - (folder / name).stat().st_mtime > lease):
                (folder / name).unlink()


def _exclusive(path: Path, content: bytes) -> bool:
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _owner(written: Any) -> Owner | None:
    try:
        return Owner(str(written["host"]), int(written["pid"]), str(written["start"]), str(written["token"]))
    except (KeyError, TypeError, ValueError):
        return None


def _host() -> str:
    """This machine, this boot of it and this space of process numbers."""
    boot = namespace = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()}/{boot}/{namespace}"


def _start_of(pid: int) -> str:
    """When a process began, in the kernel's own count; "" where that is not told."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
