"""`sky4 batch` in processes of its own, to be killed; and what it leaves, read without the batch's own code."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

ROOT = Path(__file__).resolve().parent.parent.parent
WAIT_SECONDS = 3600


@dataclass(frozen=True)
class Bench:
    """A list of jobs in a folder, and the flags that they are all made with."""

    folder: Path
    flags: tuple[str, ...]
    frames: int

    def write(self, count: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        jobs = [
            {"prompt": f"a red circle, take {seed} <sfx>a low drum</sfx>", "seed": seed, "out": f"{seed:03d}.mp4"}
            for seed in range(count)
        ]
        (self.folder / "jobs.jsonl").write_text("".join(f"{json.dumps(job)}\n" for job in jobs))

    def argv(self, out: str, *more: str) -> list[str]:
        return ["batch", "jobs.jsonl", "-o", out, *self.flags, *more]

    def start(self, *argv: str, **environment: str) -> subprocess.Popen[str]:
        paths = os.pathsep.join([str(ROOT / "python_model"), str(ROOT)])
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "sky4cli", *argv],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        out, _ = process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == 0, out
        return json.loads(out.splitlines()[-1])

    def whole(self, out: str, *more: str, **environment: str) -> dict[str, Any]:
        return self.finish(self.start(*self.argv(out, "--json", *more), **environment))

    def kill_after(self, out: str, lines: int, rest: float, draw: random.Random) -> bool:
        """Begin a run and kill it so many journal lines later and a moment after; False where it had ended before."""
        journal = self.folder / out / "journal.jsonl"
        before, process = count_lines(journal), self.start(*self.argv(out))
        while process.poll() is None and count_lines(journal) < before + lines:
            time.sleep(0.005)
        time.sleep(draw.random() * rest)
        ended = process.poll() is not None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return not ended


def count_lines(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def events(journal: Path) -> list[dict[str, Any]]:
    """Its whole lines, in order."""
    read = []
    for line in journal.read_text().splitlines():
        try:
            read.append(json.loads(line))
        except ValueError:
            continue  # cut by a kill
    return read


def done_once(journal: Path, count: int) -> dict[str, dict[str, str]]:
    """The latents' checksums by job; asserts one line of `done` for each, and no `started` behind it."""
    told = events(journal)
    done = [event["job"] for event in told if event["event"] == "done"]
    assert len(set(done)) == count
    assert [job for job, times in Counter(done).items() if times != 1] == []
    finished: set[str] = set()
    for event in told:
        assert event["job"] not in finished, f"{event['job']} was {event['event']} after it was done"
        finished |= {event["job"]} if event["event"] == "done" else set()
    return {event["job"]: event.get("latents") for event in told if event["event"] == "done"}


def recipes(folder: Path) -> dict[str, dict[str, str]]:
    """The latents' checksums inside the clips; asserts that each plays, and that nothing else lies there."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name in (".locks", "journal.jsonl"):
            continue
        with av.open(str(path)) as container:
            recipe = json.loads(container.metadata["comment"])
            pictures = sum(1 for _ in container.decode(video=0))
        with av.open(str(path)) as container:
            samples = sum(frame.samples for frame in container.decode(audio=0))
        assert pictures == recipe["request"]["frames"], path
        assert samples > 0, path
        found[path.name] = recipe["latents"]
    return found
