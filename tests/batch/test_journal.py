"""The journal: nothing that was written whole is lost, whatever byte a writer is killed at."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from sky4.batch.journal import NAME, Journal
from sky4.batch.locks import Locks


@pytest.fixture
def locks(tmp_path: Path) -> Locks:
    return Locks(tmp_path / ".locks")


def states(folder: Path) -> dict[str, str]:
    journal = Journal(folder)
    journal.refresh()
    return {name: str(journal.of(name).last.get("event", "")) for name in ("a.mp4", "b.mp4", "c.mp4")}


def test_what_one_process_writes_another_reads(tmp_path: Path, locks: Locks) -> None:
    reader = Journal(tmp_path)
    reader.refresh()
    Journal(tmp_path).append(locks, "started", "ä.mp4", "k1")
    Journal(tmp_path).append(locks, "done", "ä.mp4", "k1", seed=3)
    reader.refresh()
    assert reader.of("ä.mp4").last["event"] == "done"
    assert reader.of("ä.mp4").done is not None
    Journal(tmp_path).append(locks, "failed", "ä.mp4", "k2", message="no")
    reader.refresh()
    history = reader.of("ä.mp4")
    assert (history.last["key"], history.done and history.done["seed"]) == ("k2", 3)
    assert reader.of("b.mp4").last == {}


def test_cut_at_any_byte_it_keeps_every_whole_line_and_takes_new_ones(tmp_path: Path, locks: Locks) -> None:
    journal = Journal(tmp_path)
    for name in ("a.mp4", "b.mp4"):
        journal.append(locks, "done", name, "k", output={"digest": "sha256:0"})
    whole = (tmp_path / NAME).read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(len(whole) + 1):
        (tmp_path / NAME).write_bytes(whole[:cut])
        Journal(tmp_path).append(locks, "done", "c.mp4", "k")
        # a line that lacks its newline alone is whole: the next writer adds it
        a, b = cut >= first - 1, cut >= len(whole) - 1
        assert states(tmp_path) == {"a.mp4": "done" * a, "b.mp4": "done" * b, "c.mp4": "done"}, cut


@pytest.mark.parametrize(
    "line", [b"\0" * 100, b'{"event":"done"}', b"[" * 10_000, b'{"version":1,"event":"done","job":"b.mp4","key":"k"}']
)
def test_lines_that_it_did_not_write_are_skipped(tmp_path: Path, locks: Locks, line: bytes) -> None:
    Journal(tmp_path).append(locks, "done", "a.mp4", "k")
    with (tmp_path / NAME).open("ab") as file:
        file.write(line + b"\n")
    Journal(tmp_path).append(locks, "done", "c.mp4", "k")
    assert states(tmp_path) == {"a.mp4": "done", "b.mp4": "", "c.mp4": "done"}


def test_a_line_with_one_changed_letter_is_skipped(tmp_path: Path, locks: Locks) -> None:
    Journal(tmp_path).append(locks, "done", "a.mp4", "k")
    text = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(text.replace(b'"a.mp4"', b'"b.mp4"'))
    assert states(tmp_path) == dict.fromkeys(("a.mp4", "b.mp4", "c.mp4"), "")


def test_a_full_disk_leaves_a_journal_that_goes_on(
    tmp_path: Path, locks: Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    journal.append(locks, "done", "a.mp4", "k")
    write = os.write
    left = [40]

    def full(descriptor: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part = write(descriptor, data[: left[0]])
        left[0] -= part
        return part

    with monkeypatch.context() as patched:
        patched.setattr("sky4.batch.journal.os.write", full)
        with pytest.raises(OSError, match="No space left"):
            journal.append(locks, "done", "b.mp4", "k")
    journal.append(locks, "done", "c.mp4", "k")
    assert states(tmp_path) == {"a.mp4": "done", "b.mp4": "", "c.mp4": "done"}


def test_writers_at_once_mix_no_lines(tmp_path: Path) -> None:
    def write(number: int) -> None:
        locks = Locks(tmp_path / ".locks")
        journal = Journal(tmp_path, pause=lambda _: None)
        for index in range(10):
            journal.append(locks, "done", f"{number}-{index}", "k" * 500)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal = Journal(tmp_path)
    journal.refresh()
    assert journal.skipped == 0
    assert all(journal.of(f"{number}-{index}").done for number in range(4) for index in range(10))
