"""The batch itself: each job looked at, locked, made, written into the journal; what fails spares the others."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sky4.batch.examine import Examiner, Found, Make, Occupied, Refused, Unchanged
from sky4.batch.gates import NO_CHECK, checked, refusal, set_aside
from sky4.batch.jobs import Job, real
from sky4.batch.journal import Journal
from sky4.batch.keys import job_key
from sky4.batch.locks import Held, Locks
from sky4.batch.outputs import mark_of, remove_output, sweep_partials
from sky4.batch.pool import Pool
from sky4.batch.work import Order, Outcome
from sky4.errors import RequestError
from sky4.media import INSIDE

STATES = ".sky4-states"  # beside the journal: of jobs that were killed
POLL_SECONDS = 0.5  # between two looks at jobs that another process is making

Status = Literal["made", "unchanged", "failed", "not begun"]


@dataclass(frozen=True)
class Result:
    """What became of a job in this run. record: of a clip that was made, as `Finished.record`. notes: worth saying."""

    job: Job
    status: Status
    message: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Going:
    job: Job
    make: Make
    held: Held


@dataclass
class Run:
    """One run over a folder of outputs. tell: each result as it comes. Use once, with `go`.

    fail_fast: no further job is begun after one that failed. Where the examiner checks, a clip that a gate of `sky4
    check` refuses is set aside, and its job has failed.
    """

    jobs: list[Job]
    examiner: Examiner
    journal: Journal
    locks: Locks
    pool: Pool
    tell: Callable[[Result], None]
    fail_fast: bool = False
    pause: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self.results: dict[str, Result] = {}
        self._going: dict[str, _Going] = {}
        self._ending = ""  # why no further job is begun

    def go(self) -> None:
        """Fills `results`, an interrupted run's too. Sky4Failure where the journal cannot be read."""
        queue, waiting = deque(job for job in self.jobs if not self._settled_at_sight(job)), list[Job]()
        while queue or waiting or self._going:
            while queue and self.pool.free and not self._ending:
                job = queue.popleft()
                if not self._begin(job):
                    waiting.append(job)
            if self._ending:
                for job in (*queue, *waiting):
                    self._settle(Result(job, "not begun", self._ending))
                queue.clear()
                waiting.clear()
            if self._going:
                for name, outcome in self.pool.wait(POLL_SECONDS):
                    if again := self._end(self._going.pop(name), outcome):
                        queue.append(again)
            elif waiting and not queue:
                self.pause(POLL_SECONDS)
            self.journal.refresh()
            queue.extend(waiting)
            waiting = []

    def close(self) -> None:
        """End the pool, and remove what it was in the middle of writing."""
        self.pool.close()
        for going in self._going.values():
            sweep_partials(going.job.out)
        with suppress(OSError):  # what was interrupted is kept in it, for the next run
            (self.journal.path.parent / STATES).rmdir()

    def _settled_at_sight(self, job: Job) -> bool:
        """Settle what needs nothing made: so that what is refused is told before any weights are loaded."""
        if job.after or self._ending:
            return False
        verdict = self.examiner.look(job)
        if isinstance(verdict, Unchanged):
            return self._settle(Result(job, "unchanged"))
        return isinstance(verdict, Refused) and self._settle(Result(job, "failed", verdict.message))

    def _begin(self, job: Job) -> bool:
        """Settle the job or have it made; False where it has to wait for another job or process."""
        for name in job.after:
            if name in self.results and self.results[name].status in ("failed", "not begun"):
                return self._settle(Result(job, "failed", f"it needs '{name}', which failed"))
            if name not in self.results:
                return False
        verdict = self.examiner.look(job)
        if isinstance(verdict, Unchanged):
            return self._settle(Result(job, "unchanged"))
        if isinstance(verdict, Refused):
            return self._settle(Result(job, "failed", verdict.message))
        held = None
        try:
            held = self.locks.acquire(f"job {job.name}")
            if held is None:
                return False
            return self._begin_locked(job, held)
        except OSError as error:
            if held is not None:
                self.locks.release(held)
            return self._settle(Result(job, "failed", _unwritable(self.journal.path, error)))

    def _begin_locked(self, job: Job, held: Held) -> bool:
        self.journal.refresh()
        verdict = self.examiner.look(job)  # once more: another process may have made it before we got the lock
        if isinstance(verdict, Make):
            job.out.parent.mkdir(parents=True, exist_ok=True)
            sweep_partials(job.out)
            self.journal.append(self.locks, "started", job.name, verdict.key, generation=held.generation)
            ready = verdict.ready
            state = self._state_of(job, verdict.key)
            order = Order(
                ready.request,
                ready.engine,
                job.out,
                verdict.model,
                state,
                verdict.replace,
                ready.enhancer,
                ready.provenance,
                ready.events,
                job.command,
                self.examiner.check,
            )
            self._going[job.name] = _Going(job, verdict, held)
            self.pool.submit(job.name, order)
            return True
        refused = ""
        if isinstance(verdict, Found):
            refused = self._found(job, verdict)
            shutil.rmtree(self._state_of(job, verdict.key), ignore_errors=True)
        self.locks.release(held)
        if refused:
            return self._settle(Result(job, "failed", refused))
        if isinstance(verdict, Refused | Occupied):
            return self._settle(Result(job, "failed", verdict.message))
        return self._settle(Result(job, "unchanged"))

    def _found(self, job: Job, found: Found) -> str:
        """Write down a clip whose writer was killed before it could; returns why a gate refuses it, or ""."""
        why = refusal(checked(job.out, INSIDE)) if self.examiner.check else ""
        if why:
            return self._refused(job, found.key, why)
        self.journal.append(self.locks, "done", job.name, found.key, output=mark_of(job.out), found=True)
        return ""

    def _refused(self, job: Job, key: str, why: str) -> str:
        """Set a refused clip aside and write that down; returns what is said of it."""
        place = set_aside(job.out, self.journal.path.parent, job.name)
        lies = place.relative_to(self.journal.path.parent).as_posix()
        message = f"{why}; the clip lies in '{lies}'"
        self.journal.append(self.locks, "failed", job.name, key, message=message, refused=lies)
        return message

    def _state_of(self, job: Job, key: str) -> Path:
        """Where this job, as it is now, keeps how far it has come: two jobs may be of one key."""
        return self.journal.path.parent / STATES / hashlib.sha256(f"{job.name}\n{key}".encode()).hexdigest()[:32]

    def _end(self, going: _Going, outcome: Outcome) -> Job | None:
        """Write down what became of a job; returns it where it has to be looked at again."""
        job, held = going.job, going.held
        try:
            if not self.locks.holds(held):  # this process stood still for so long that another took the job over
                return job
            moved = outcome.message if outcome.model_changed else self._moved(going)
            if moved or outcome.message:
                if outcome.record is not None:
                    remove_output(job.out)
                # without a key, what failed for a cause that has passed is tried again by itself
                key, message = "" if moved else going.make.key, moved or outcome.message
                self.journal.append(self.locks, "failed", job.name, key, message=message)
                self._settle(Result(job, "failed", message))
            elif why := refusal((outcome.record or {}).get("check", NO_CHECK)):
                self._settle(Result(job, "failed", self._refused(job, going.make.key, why)))
            else:
                assert outcome.record is not None
                told = {name: outcome.record[name] for name in ("seed", "latents", "took_seconds")}
                self.journal.append(self.locks, "done", job.name, going.make.key, output=mark_of(job.out), **told)
                self._settle(Result(job, "made", record=outcome.record, notes=going.make.ready.notes))
        except OSError as error:
            self._settle(Result(job, "failed", _unwritable(self.journal.path, error)))
        finally:
            self.locks.release(held)
        if outcome.model_changed:
            self._ending = outcome.message
        return None

    def _moved(self, going: _Going) -> str:
        """Why what came of a job does not count: its model or an input is no longer what its key says."""
        ready, digests = going.make.ready, self.examiner.digests
        try:
            if digests.of_model(ready.engine.model) != going.make.model:
                self._ending = (
                    f"the model in '{ready.engine.model}' changed while the batch was running; start it again"
                )
                return self._ending
            if job_key(ready.request, ready.engine, ready.enhancer, digests, ready.provenance) != going.make.key:
                return "an input changed while the clip was being made; start the batch again"
        except RequestError as error:
            return str(error)
        return ""

    def _settle(self, result: Result) -> bool:
        self.results[result.job.name] = result
        if result.status == "failed" and self.fail_fast and not self._ending:
            self._ending = f"'{result.job.name}' failed, and --fail-fast was asked for"
        self.tell(result)
        return True


def inputs_of(jobs: Iterable[Job]) -> set[Path]:
    """Every file that a job reads and that no other job writes."""
    made = {real(job.out) for job in jobs}
    return {path for job in jobs for path in job.inputs if real(path) not in made}


def _unwritable(journal: Path, error: OSError) -> str:
    return f"'{journal.parent}' cannot be written ({error.strerror or error}); free some space, or see to its rights"
