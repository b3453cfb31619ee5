"""Batches that are killed, shared between processes, spread over workers; and how long they take.

SKY4_BATCH_FULL=1 takes the bundled model and as many jobs as issue 6 asks for (some minutes); else a few on nano.
"""

from __future__ import annotations

import os
import random
import resource
import time
from pathlib import Path

import pytest

from tests.batch.lives import Bench, done_once, events, recipes

FULL = os.environ.get("SKY4_BATCH_FULL") == "1"
KILLED_JOBS, KILLS, SHARED_JOBS, RAY_JOBS, TIMED_JOBS = (200, 20, 40, 50, 20) if FULL else (9, 3, 8, 6, 3)
MOST_OF_SINGLES = 0.6  # of the time of single runs

pytestmark = pytest.mark.slow


@pytest.fixture
def bench(nano_model: Path, tmp_path: Path) -> Bench:
    if FULL:
        return Bench(tmp_path, ("--size", "32x32", "--frames", "5", "--steps", "2", "--device", "cpu"), 5)
    return Bench(tmp_path, ("--model", str(nano_model), "--device", "cpu"), 9)


def test_killed_at_random_moments_every_job_is_done_once_and_as_if_undisturbed(bench: Bench, tmp_path: Path) -> None:
    draw = random.Random(6)
    bench.write(KILLED_JOBS)
    began, kills, runs = time.monotonic(), 0, 0
    while kills < KILLS:
        # a job is two lines; the rest is where in loading, sampling, decoding or writing the kill falls
        most = max(1, 2 * KILLED_JOBS // KILLS - 2)
        kills += bench.kill_after("killed", draw.randint(0, most), 0.5, draw)
        runs += 1
        assert runs < 4 * KILLS
    told = bench.whole("killed")
    assert told["failed"] == told["not_begun"] == 0
    done_once(tmp_path / "killed" / "journal.jsonl", KILLED_JOBS)
    undisturbed = bench.whole("undisturbed")
    assert undisturbed["made"] == KILLED_JOBS
    assert recipes(tmp_path / "killed") == recipes(tmp_path / "undisturbed")
    begun = sum(event["event"] == "started" for event in events(tmp_path / "killed" / "journal.jsonl"))
    seconds = time.monotonic() - began
    print(
        f"\n{KILLED_JOBS} jobs, {kills} kills in {runs} runs, {begun} begun, {KILLED_JOBS} done once, {seconds:.0f} s"
    )
    assert bench.whole("killed")["unchanged"] == KILLED_JOBS


def test_two_processes_on_one_folder_do_no_job_twice(bench: Bench, tmp_path: Path) -> None:
    bench.write(SHARED_JOBS)
    both = [bench.start(*bench.argv("out", "--json")) for _ in range(2)]
    told = [bench.finish(process) for process in both]
    done_once(tmp_path / "out" / "journal.jsonl", SHARED_JOBS)
    assert len(recipes(tmp_path / "out")) == SHARED_JOBS
    assert sum(one["made"] for one in told) == SHARED_JOBS
    assert sum(event["event"] == "started" for event in events(tmp_path / "out" / "journal.jsonl")) == SHARED_JOBS
    print(f"\n{SHARED_JOBS} jobs, two processes made {' and '.join(str(one['made']) for one in told)}")


def test_on_ray_a_worker_is_killed_and_all_is_as_in_a_local_run(bench: Bench, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is an extra: pip install 'sky4[ray]'")
    psutil = pytest.importorskip("psutil")
    bench.write(RAY_JOBS)
    journal = tmp_path / "ray" / "journal.jsonl"
    # as nice as we are: Ray's own 15 would give its workers nothing beside other work
    process = bench.start(*bench.argv("ray", "--ray", "--workers", "2", "--json"), RAY_worker_niceness="0")
    while process.poll() is None and (not journal.exists() or journal.read_text().count('"done"') < RAY_JOBS // 3):
        time.sleep(0.05)
    actors = [child for child in psutil.Process(process.pid).children(recursive=True) if "Actor" in child.name()]
    assert len(actors) == 2
    actors[0].kill()
    told = bench.finish(process)
    assert told["made"] == RAY_JOBS
    done_once(journal, RAY_JOBS)
    bench.whole("local")
    assert recipes(tmp_path / "ray") == recipes(tmp_path / "local")
    print(f"\n{RAY_JOBS} jobs, 2 workers, one killed, as in a local run; {told['workers_lost']} worker lost")
    assert told["workers_lost"] == 1


def test_a_batch_takes_at_most_60_percent_of_the_time_of_single_runs(bench: Bench, tmp_path: Path) -> None:
    bench.write(TIMED_JOBS)
    began, computed = time.monotonic(), children_seconds()
    bench.whole("batch")
    batch, batch_cpu = time.monotonic() - began, children_seconds() - computed
    began, computed = time.monotonic(), children_seconds()
    for seed in range(TIMED_JOBS):
        prompt = f"a red circle, take {seed} <sfx>a low drum</sfx>"
        argv = ["generate", "--prompt", prompt, "--seed", str(seed), "-o", f"{seed}.mp4", "--json", *bench.flags]
        bench.finish(bench.start(*argv))
    singles, singles_cpu = time.monotonic() - began, children_seconds() - computed
    print(f"\n{TIMED_JOBS} clips: batch {batch:.1f} s, single runs {singles:.1f} s, {100 * batch / singles:.0f} %")
    print(f"of the processor: {batch_cpu:.1f} s and {singles_cpu:.1f} s, {100 * batch_cpu / singles_cpu:.0f} %")
    assert batch <= MOST_OF_SINGLES * singles


def children_seconds() -> float:
    """Of the processor, of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
