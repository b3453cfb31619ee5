"""What `sky4 batch` tells: a line for each job as it ends, a table of them all, one JSON document for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sky4.batch.run import Result, Status

if TYPE_CHECKING:
    from sky4.batch.examine import Examiner
    from sky4.batch.jobs import Job
    from sky4.batch.manifest import Fault
    from sky4cli.console import Reporter

STATES: tuple[Status, ...] = ("made", "unchanged", "failed", "not begun")


class Told:
    """Collects results, and says each. faults: rows that are no job, said at once."""

    def __init__(self, faults: Sequence[Fault], total: int, reporter: Reporter) -> None:
        self.results: list[Result] = []
        self.faults, self._total, self._reporter = list(faults), total, reporter
        for fault in faults:
            reporter.result(f"{fault.place}  failed: {fault.message}")

    @property
    def failed(self) -> bool:
        """Whether anything that was asked for is not there."""
        return bool(self.faults) or any(result.status in ("failed", "not begun") for result in self.results)

    def result(self, result: Result) -> None:
        """A job has ended."""
        self.results.append(result)
        number = f"{len(self.faults) + len(self.results)}/{self._total}"
        if result.status == "made":
            for note in result.notes:
                self._reporter.note(f"note: {result.job.name}: {note}")
            self._reporter.result(f"{number}  {result.job.name}  {_size(result.record)}")
        elif result.status == "failed":
            self._reporter.result(f"{number}  {result.job.name}  failed: {result.message}")

    def leave(self, jobs: Sequence[Job], why: str) -> None:
        """These are not begun."""
        for job in jobs:
            self.result(Result(job, "not begun", why))

    def summary(self, out: Path, jobs: Sequence[Job], lost: int) -> None:
        """The table, and the document for programs. jobs: all of them, also those that an interrupt left. lost: workers
        that died, whose jobs others took over."""
        ended = {result.job.name for result in self.results}
        results = [*self.results, *(Result(job, "not begun") for job in jobs if job.name not in ended)]
        counts = Counter(result.status for result in results)
        counts["failed"] += len(self.faults)
        seconds = sum(result.record.get("took_seconds", 0.0) for result in results)
        rows = [(state, str(counts[state]), f"{seconds:.1f}" if state == "made" else "") for state in STATES]
        if lost:
            self._reporter.note(f"note: {lost} workers died, and others took over what they were making")
        self._reporter.result(_table(f"{out}: {self._total} jobs", ("", "jobs", "seconds"), rows))
        self._reporter.record(
            {
                **{state.replace(" ", "_"): counts[state] for state in STATES},
                "workers_lost": lost,
                "jobs": [_values(result) for result in results],
                "faults": [_fault_values(fault) for fault in self.faults],
            }
        )


def list_plans(jobs: Sequence[Job], examiner: Examiner, told: Told, reporter: Reporter) -> bool:
    """Say what would be done with each job, and do nothing. Returns whether one could not be made."""
    from sky4.batch.examine import Found, Make, Occupied, Refused

    states: dict[str, str] = {}
    listed: list[dict[str, Any]] = []
    for job in jobs:
        waits = next((name for name in job.after if states[name] != "unchanged"), None)
        verdict = examiner.look(job) if waits is None else None
        if verdict is None:
            state, why = "make", f"after '{waits}'"
        elif isinstance(verdict, Make):
            state, why = "make", verdict.why
        elif isinstance(verdict, Refused | Occupied):
            state, why = "fail", verdict.message
        else:
            state, why = "unchanged", "found" if isinstance(verdict, Found) else ""
        states[job.name] = state
        listed.append({"job": job.name, "command": job.command, "would": state, "why": why})
        reporter.result(f"{job.name}  {state}{f': {why}' if why else ''}")
        if isinstance(verdict, Make):
            for note in verdict.ready.notes:
                reporter.note(f"note: {job.name}: {note}")
    counts = Counter(states.values())
    rows = [(state, str(counts[state])) for state in ("make", "unchanged", "fail")]
    reporter.result(_table("would be done", ("", "jobs"), rows))
    reporter.record({"jobs": listed, "faults": [_fault_values(fault) for fault in told.faults]})
    return bool(counts["fail"]) or told.failed


def _size(record: dict[str, Any]) -> str:
    size = f"{record['width']}x{record['height']}  " if record["width"] else ""
    return f"{size}{record['seconds']:.2f} s  seed {record['seed']}  took {record['took_seconds']:.1f} s"


def _values(result: Result) -> dict[str, Any]:
    told = {"message": result.message} if result.message else {}
    return {"job": result.job.name, "status": result.status, **told, **result.record}


def _fault_values(fault: Fault) -> dict[str, Any]:
    place = fault.place
    return {"file": str(place.file), "line": place.line, "column": place.column, "message": fault.message}


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines for any terminal or pipe."""
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings))]
    lines = [title]
    for row in (headings, *rows):
        first, *rest = (
            cell.ljust(width) if not at else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append(f"  {'  '.join((first, *rest))}".rstrip())
    return "\n".join(lines)
