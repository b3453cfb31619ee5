"""Locks between processes: one holder, taken over from the dead at once and from the silent after the lease."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sky4.batch.locks import Held, Locks, Owner


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def elsewhere() -> Owner:
    """A process of another machine, of which nothing can be known from here."""
    return replace(Owner.here(), host="elsewhere/boot/space")


def dead() -> Owner:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return replace(Owner.here(), pid=process.pid, start="1")


def files(held: Held) -> list[str]:
    return sorted(os.listdir(held.path.parent))


def test_one_holds_it_and_the_next_gets_it_when_it_is_given_back(tmp_path: Path) -> None:
    first, second = Locks(tmp_path), Locks(tmp_path)
    held = first.acquire("a.mp4")
    assert held is not None
    assert second.acquire("a.mp4") is None
    assert first.acquire("a.mp4") is None
    assert second.acquire("b.mp4") is not None
    first.release(held)
    after = second.acquire("a.mp4")
    assert after is not None
    assert after.generation == held.generation + 1
    assert files(after) == [str(after.generation)]
    assert not first.holds(held)
    assert second.holds(after)


def test_what_a_dead_process_of_this_machine_held_is_free_at_once(tmp_path: Path) -> None:
    assert Locks(tmp_path, dead()).acquire("a") is not None
    assert Locks(tmp_path).acquire("a") is not None


def test_a_process_number_that_went_to_another_process_holds_nothing(tmp_path: Path) -> None:
    assert Locks(tmp_path, replace(Owner.here(), start="1")).acquire("a") is not None
    assert Locks(tmp_path).acquire("a") is not None


def test_what_a_silent_machine_held_is_free_after_the_lease_on_our_own_clock(tmp_path: Path) -> None:
    clock = Clock()
    held = Locks(tmp_path, elsewhere()).acquire("a")
    assert held is not None
    os.utime(held.path, (2**31, 2**31))  # its clock is decades ahead
    ours = Locks(tmp_path, lease=60, clock=clock)
    assert ours.acquire("a") is None
    clock.now = 59.0
    assert ours.acquire("a") is None
    os.utime(held.path)  # a sign of life
    clock.now = 61.0
    assert ours.acquire("a") is None
    clock.now = 122.0
    assert ours.acquire("a") is not None


def test_a_lock_that_a_crash_cut_is_free_after_the_lease(tmp_path: Path) -> None:
    clock = Clock()
    held = Locks(tmp_path, elsewhere()).acquire("a")
    assert held is not None
    held.path.write_bytes(b'{"host": "el')
    ours = Locks(tmp_path, lease=60, clock=clock)
    assert ours.acquire("a") is None
    clock.now = 61.0
    assert ours.acquire("a") is not None


def test_a_holder_that_stood_still_and_was_outlived_notices(tmp_path: Path) -> None:
    clock = Clock()
    slow, quick = Locks(tmp_path, elsewhere()), Locks(tmp_path, lease=60, clock=clock)
    held = slow.acquire("a")
    assert held is not None
    quick.acquire("a")
    clock.now = 61.0
    taken = quick.acquire("a")
    assert taken is not None
    assert not slow.holds(held)
    slow.release(held)
    assert quick.holds(taken)
    assert Locks(tmp_path).acquire("a") is None


def test_whoever_looked_before_others_came_and_went_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late, others = Locks(tmp_path), Locks(tmp_path)
    old = others.acquire("a")
    assert old is not None
    others.release(old)
    place = Locks._place

    def meanwhile(self: Locks, folder: Path, path: Path) -> bool:
        monkeypatch.setattr(Locks, "_place", place)
        for _ in range(2):
            held = others.acquire("a")
            assert held is not None
            others.release(held)
        return place(self, folder, path)

    monkeypatch.setattr(Locks, "_place", meanwhile)
    assert late.acquire("a") is None
    assert others.acquire("a") is not None


def test_the_pulse_keeps_a_lock_fresh_and_notices_a_loss(tmp_path: Path) -> None:
    with Locks(tmp_path, lease=0.3) as locks:
        held, gone = locks.acquire("a"), locks.acquire("b")
        assert held is not None
        assert gone is not None
        before = held.path.stat().st_mtime_ns
        gone.path.unlink()
        until = time.monotonic() + 30
        while time.monotonic() < until and not (gone.lost and held.path.stat().st_mtime_ns > before):
            time.sleep(0.02)
        assert gone.lost
        assert not held.lost
    assert json.loads(held.path.read_text()) == {"free": True}


@pytest.mark.parametrize("fault", [errno.EPERM, errno.ENOTSUP])
def test_a_file_system_without_links_serves_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int) -> None:
    def no_links(*_: object) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(os, "link", no_links)
    first, second = Locks(tmp_path), Locks(tmp_path)
    held = first.acquire("a")
    assert held is not None
    assert second.acquire("a") is None
    first.release(held)
    assert second.acquire("a") is not None


def test_a_link_that_was_made_and_denied_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def as_nfs_does(old: Path, new: Path) -> None:
        link(old, new)
        raise OSError(errno.EIO, "the answer was lost")

    monkeypatch.setattr(os, "link", as_nfs_does)
    assert Locks(tmp_path).acquire("a") is not None


def _count(folder: Path, times: int) -> None:
    locks = Locks(folder / "locks")
    number = folder / "number"
    for _ in range(times):
        while (held := locks.acquire("number")) is None:
            time.sleep(0.0005)
        value = int(number.read_text())  # read, wait, write: two at once would lose a count
        time.sleep(0.0005)
        number.write_text(str(value + 1))
        locks.release(held)


def test_four_processes_lose_no_count(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("0")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_count, args=(tmp_path, 25)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert (tmp_path / "number").read_text() == "100"
