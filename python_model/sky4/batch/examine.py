"""What is to be done about a job: nothing, make it, or say why it cannot be made. Nothing is written."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sky4.batch.jobs import Job, Plan, Ready
from sky4.batch.journal import Journal
from sky4.batch.keys import Digests, is_clip_of, job_key
from sky4.batch.outputs import is_marked, recipe_of
from sky4.errors import RequestError
from sky4.media.recipe import sidecar_of


@dataclass(frozen=True)
class Unchanged:
    """The clip is there, as it was made from this recipe, these inputs and this model."""

    key: str


@dataclass(frozen=True)
class Found:
    """The clip is there and its recipe is this job's, but no line of the journal says so: the writer was killed."""

    key: str


@dataclass(frozen=True)
class Make:
    """The clip is to be made. why: in a word or two. replace: something of this batch's own lies there."""

    ready: Ready
    key: str
    model: str
    why: str
    replace: bool


@dataclass(frozen=True)
class Refused:
    """The clip cannot be made, or failed in an earlier run and is not tried again."""

    message: str


@dataclass(frozen=True)
class Occupied:
    """Something lies at the clip's place that the journal does not know: somebody's file, or, as long as the job is not
    locked and the journal not read again, what another process has just written."""

    message: str


Verdict = Unchanged | Found | Make | Refused | Occupied


@dataclass
class Examiner:
    """Looks at jobs one by one. inputs: every file that a job of this batch reads, which no output replaces. check:
    whether clips are held against the gates of `sky4 check`; where not, what one refused before is made again."""

    plan: Plan
    journal: Journal
    inputs: Collection[Path] = ()
    force: bool = False
    retry_failed: bool = False
    check: bool = True
    digests: Digests = field(default_factory=Digests)

    def look(self, job: Job) -> Verdict:
        """Reads the job's inputs, and what lies at its place. Sky4Failure of the journal alone."""
        try:
            ready = self.plan(job)
            key = job_key(ready.request, ready.engine, ready.enhancer, self.digests, ready.provenance)
            model = self.digests.of_model(ready.engine.model)
        except RequestError as error:
            return Refused(" ".join(str(error).split()))
        except Exception as error:  # a name that is too long, or a bug: one job's own, and the others go on
            return Refused(f"it cannot be read ({type(error).__name__}: {' '.join(str(error).split())})")
        history = self.journal.of(job.name)
        event, done = history.last.get("event"), history.done
        there = os.path.lexists(job.out)
        beside = ready.provenance.sidecar and os.path.lexists(sidecar_of(job.out))
        whole = there and beside == ready.provenance.sidecar
        mine = there and done is not None and is_marked(job.out, done.get("output"))
        if mine and whole and done is not None and done["key"] == key:
            return Unchanged(key)
        recipe = recipe_of(job.out) if there and not mine else None
        # what an enhancer made of the prompt, and whether a file is signed or without its recipe, is not told from here
        plain = ready.provenance.inside and ready.provenance.credentials is None
        known = recipe is not None and ready.enhancer is None and plain
        if known and whole and is_clip_of(recipe or {}, ready.request, ready.engine, self.digests):
            return Found(key)
        begun = history.last.get("key") == key and event == "started"
        if event == "failed" and history.last["key"] == key and not self._tries_again(history.last):
            told = history.last.get("message", "it failed")
            return Refused(f"{told} (in an earlier run; --retry-failed tries it again)")
        # renamed, and not yet written down; one without a recipe can be told by the beginning alone
        unfinished = (event in ("started", "failed") and recipe is not None) or (begun and not ready.provenance.inside)
        if there and not mine and not unfinished and (fault := self._not_ours(job, done is not None)):
            return Occupied(fault)
        if beside and not self.force and recipe_of(sidecar_of(job.out)) is None:
            return Occupied(
                f"'{sidecar_of(job.out)}', where the recipe goes, exists already; move it away, choose another name, "
                "or --force to replace it"
            )
        why = _why(event, done is not None, done is not None and done["key"] == key)
        return Make(ready, key, model, why, there or beside)

    def _tries_again(self, failed: Mapping[str, Any]) -> bool:
        return self.retry_failed or (not self.check and "refused" in failed)

    def _not_ours(self, job: Job, changed: bool) -> str:
        if any(path.exists() and job.out.exists() and path.samefile(job.out) for path in self.inputs):
            return f"the output '{job.out}' is an input of this batch, which even --force does not replace"
        if self.force:
            return ""
        since = "was changed since this batch made it" if changed else "exists already"
        return f"the output '{job.out}' {since}; move it away, choose another name, or --force to replace it"


def _why(event: str | None, done: bool, same: bool) -> str:
    if event == "failed":
        return "failed before"
    if event == "started":
        return "unfinished"
    if not done:
        return "new"
    return "output is gone" if same else "changed"
