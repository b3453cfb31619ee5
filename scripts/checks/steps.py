"""Commands that must not lose one another: each with its own time limit, log and verdict, within one budget of time."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Of a log that grows without end, the beginning says little and the end says why.
LOG_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Step:
    """One command. Steps of the same `group` run at the same time."""

    name: str
    command: Sequence[str]
    log: str  # file name in the results folder; steps may share one
    limit: float  # seconds
    reserve: float = 0.0  # seconds that the steps before it must leave
    group: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    name: str
    command: Sequence[str]
    exit_code: int | None  # None: not run, or stopped
    seconds: float
    said: str  # "ok", or in a few words what went wrong

    @property
    def ok(self) -> bool:
        return self.said == "ok"


def run_steps(steps: Sequence[Step], folder: Path, budget: float, report: Report) -> None:
    """Runs them in order; `report` hears each verdict as it falls."""
    began = time.monotonic()
    for group in _groups(steps):
        later = sum(step.reserve for step in steps[steps.index(group[-1]) + 1 :])
        left = budget - later - (time.monotonic() - began)
        for verdict in _run_together(group, folder, left):
            report.add(verdict)


def _groups(steps: Sequence[Step]) -> list[list[Step]]:
    groups: list[list[Step]] = []
    for step in steps:
        if groups and step.group and step.group == groups[-1][-1].group:
            groups[-1].append(step)
        else:
            groups.append([step])
    return groups


class Report:
    """Verdicts as they fall; subclassed by who writes them down."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []

    def add(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)


def _run_together(steps: Sequence[Step], folder: Path, left: float) -> list[Verdict]:
    if left <= 1.0:
        return [Verdict(step.name, step.command, None, 0.0, "not run: no time was left") for step in steps]
    began = time.monotonic()
    started: list[tuple[Step, Path, subprocess.Popen[bytes] | OSError]] = []
    for step in steps:
        part = folder / f".{step.name}.partial"
        with part.open("wb") as out:
            environment = {**os.environ, **step.environment}
            try:  # a session of its own, so that a step that hangs can be ended with all that it started
                process: subprocess.Popen[bytes] | OSError = subprocess.Popen(
                    list(step.command),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                process = error
        started.append((step, part, process))
    verdicts = []
    for step, part, process in started:
        limit = min(step.limit, left)
        if isinstance(process, OSError):
            verdict = Verdict(step.name, step.command, None, 0.0, f"does not start: {process}")
        else:
            code = _wait(process, limit - (time.monotonic() - began))
            said = "ok" if code == 0 else f"stopped after {limit:.0f} s" if code is None else f"exit code {code}"
            verdict = Verdict(step.name, step.command, code, round(time.monotonic() - began, 1), said)
        _append(folder / step.log, verdict, part)
        verdicts.append(verdict)
    return verdicts


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(max(seconds, 0.1))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


def _append(log: Path, verdict: Verdict, part: Path) -> None:
    text = part.read_bytes()
    part.unlink()
    cut = b"" if len(text) <= LOG_BYTES else b"[the beginning is cut]\n"
    head = f"==== {verdict.name}: {' '.join(verdict.command)}\n".encode()
    tail = f"==== {verdict.name}: {verdict.said}, {verdict.seconds} s\n".encode()
    with log.open("ab") as out:
        out.write(head + cut + text[-LOG_BYTES:] + (b"" if text.endswith(b"\n") or not text else b"\n") + tail)
