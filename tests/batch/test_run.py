"""A run over a folder, with a worker that draws a square at once: what is made, skipped, tried again, refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sky4.batch.examine import Examiner, Found, Make
from sky4.batch.jobs import Job, Ready
from sky4.batch.journal import Journal
from sky4.batch.keys import Digests
from sky4.batch.locks import Held, Locks
from sky4.batch.manifest import Place
from sky4.batch.order import in_order
from sky4.batch.outputs import mark_of
from sky4.batch.run import Result, Run, inputs_of
from sky4.batch.work import Order, Outcome
from sky4.errors import RequestError
from sky4.media import INSIDE, Provenance, write_clip
from sky4.pipeline.digest import file_digest, weights_digest
from sky4.pipeline.engine import Engine
from sky4.pipeline.request import ClipRequest, Source

STILL = ClipRequest(
    prompt="a", width=8, height=8, frames=1, fps=Fraction(16), steps=1, guidance=1.0, audio_guidance=1.0, shift=1.0
)


@dataclass
class Draws:
    """A pool of one worker. meanwhile: called by the job's name, after the picture is drawn; may raise."""

    meanwhile: dict[str, Callable[[Order], object]] = field(default_factory=dict)
    fails: dict[str, str] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    black: set[str] = field(default_factory=set)  # jobs of which a gate says that they are
    lost: int = 0
    order: tuple[str, Order] | None = None

    @property
    def free(self) -> bool:
        return self.order is None

    def submit(self, name: str, order: Order) -> None:
        assert self.order is None
        self.order = name, Order.from_dict(order.to_dict())

    def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
        assert self.order is not None
        (name, order), self.order = self.order, None
        if name in self.fails:
            return [(name, Outcome(message=self.fails[name]))]
        draw(order)
        self.made.append(name)
        self.meanwhile.get(name, lambda _: None)(order)
        record: dict[str, Any] = {"seed": order.request.seed, "latents": {}, "took_seconds": 0.0}
        if order.check:
            gate = {"passed": name not in self.black, "told": "2.00 s are black, --max-black is 0.5 s"}
            record["check"] = {"passed": gate["passed"], "gates": {"black": gate, "sync": {"passed": None}}}
        return [(name, Outcome(record))]

    def close(self) -> None:
        pass


def draw(order: Order) -> None:
    """The picture, its colour the seed's, with the recipe that a clip of this request has."""
    recipe = {
        "request": order.request.to_dict(),
        "model": {"digest": weights_digest(order.engine.model)},
        "computed": {"dtype": "float32", "attention_backend": "auto"},
        "inputs": {str(path.absolute()): file_digest(path) for _, path in order.request.files()},
    }
    picture = np.full((1, 8, 8, 3), order.request.seed, np.uint8)
    write_clip(
        order.out, [picture], None, fps=Fraction(16), recipe=recipe, force=order.replace, provenance=order.provenance
    )


@dataclass
class Batch:
    """Jobs by name, in a folder; each `run` is a process of its own as far as the disk can tell."""

    folder: Path
    prompts: dict[str, str]
    reads: dict[str, str] = field(default_factory=dict)
    pool: Draws = field(default_factory=Draws)
    pause: Callable[[float], None] = lambda _: pytest.fail("nothing was to be waited for")
    results: dict[str, Result] = field(default_factory=dict)
    provenance: Provenance = INSIDE

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def jobs(self) -> list[Job]:
        jobs = []
        for number, name in enumerate(self.prompts, 1):
            inputs = (self.folder / self.reads[name],) if name in self.reads else ()
            place = Place(Path("jobs.jsonl"), number)
            jobs.append(Job(name, place, number, "generate", (), self.out / name, self.out / name, 0, inputs))
        return in_order(jobs)[0]

    def plan(self, job: Job) -> Ready:
        if "refuse" in self.prompts[job.name]:
            raise RequestError("--prompt is refused")
        for path in job.inputs:
            if not path.exists():
                raise RequestError(f"'{path}' does not exist")
        sources = tuple(Source(path, "--image") for path in job.inputs)
        request = replace(STILL, prompt=self.prompts[job.name], seed=job.number, sources=sources, outputs="still")
        return Ready(request, Engine(self.folder / "model"), provenance=self.provenance)

    def examiner(self, **settings: Any) -> Examiner:
        journal = Journal(self.out)
        journal.refresh()
        settings = {"check": False, **settings}  # what is drawn here would pass no gate
        return Examiner(self.plan, journal, inputs_of(self.jobs()), digests=Digests(), **settings)

    def run(self, fail_fast: bool = False, **settings: Any) -> dict[str, str]:
        """Status by name."""
        self.pool.made.clear()
        examiner, results = self.examiner(**settings), []
        with Locks(self.out / ".locks") as locks:
            run = Run(self.jobs(), examiner, examiner.journal, locks, self.pool, results.append, fail_fast, self.pause)
            try:
                run.go()
            finally:
                self.results = run.results
        assert {result.job.name: result for result in results} == self.results
        return {name: result.status for name, result in self.results.items()}


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text("{}")
    (tmp_path / "model" / "a.safetensors").write_bytes(b"weights")
    (tmp_path / "in.png").write_bytes(b"an input")
    return Batch(tmp_path, {"a.png": "a", "b.png": "b", "c.png": "c"}, {"b.png": "in.png"})


ALL_MADE = dict.fromkeys(("a.png", "b.png", "c.png"), "made")
UNCHANGED = dict.fromkeys(ALL_MADE, "unchanged")


def test_what_is_finished_and_unchanged_is_skipped(batch: Batch) -> None:
    assert batch.run() == ALL_MADE
    assert batch.run() == UNCHANGED
    assert batch.pool.made == []


def test_a_folder_that_was_copied_elsewhere_is_still_finished(batch: Batch, tmp_path: Path) -> None:
    batch.run()
    for path in batch.out.glob("*.png"):
        os.utime(path, (1, 1))
    (tmp_path / "in.png").rename(tmp_path / "moved.png")
    batch.reads["b.png"] = "moved.png"
    assert batch.run() == UNCHANGED


@pytest.mark.parametrize("change", ["prompt", "input", "output"])
def test_what_changed_is_made_anew_alone(batch: Batch, tmp_path: Path, change: str) -> None:
    batch.run()
    if change == "prompt":
        batch.prompts["b.png"] = "another"
    elif change == "input":
        (tmp_path / "in.png").write_bytes(b"AN INPUT")
    else:
        (batch.out / "b.png").unlink()
    batch.run()
    assert batch.pool.made == ["b.png"]
    assert batch.run() == UNCHANGED


def test_another_model_makes_everything_anew(batch: Batch, tmp_path: Path) -> None:
    batch.run()
    (tmp_path / "model" / "a.safetensors").write_bytes(b"WEIGHTS")
    assert batch.run() == ALL_MADE


def test_what_fails_spares_the_rest_and_is_tried_again_when_asked(batch: Batch) -> None:
    batch.pool.fails["b.png"] = "no space"
    assert batch.run() == {**ALL_MADE, "b.png": "failed"}
    batch.pool.fails.clear()
    assert batch.run() == {**UNCHANGED, "b.png": "failed"}
    assert "no space (in an earlier run; --retry-failed" in batch.results["b.png"].message
    assert batch.run(retry_failed=True) == {**UNCHANGED, "b.png": "made"}


def test_what_failed_and_was_changed_is_tried_again_by_itself(batch: Batch) -> None:
    batch.pool.fails["b.png"] = "no space"
    batch.run()
    batch.pool.fails.clear()
    batch.prompts["b.png"] = "another"
    assert batch.run()["b.png"] == "made"


def test_fail_fast_begins_nothing_after_a_failure(batch: Batch) -> None:
    batch.prompts["a.png"] = "refuse"
    assert batch.run(fail_fast=True) == {"a.png": "failed", "b.png": "not begun", "c.png": "not begun"}
    assert "--fail-fast" in batch.results["c.png"].message


def test_a_job_reads_what_another_has_made_and_fails_with_it(batch: Batch) -> None:
    batch.reads = {"a.png": "out/c.png", "b.png": "out/a.png"}
    assert batch.run() == ALL_MADE
    assert batch.pool.made == ["c.png", "a.png", "b.png"]
    batch.prompts["c.png"] = "another"  # other bytes, so all that comes of it is other too
    batch.run()
    assert batch.pool.made == ["c.png", "a.png", "b.png"]
    batch.prompts["c.png"] = "refuse"
    assert set(batch.run().values()) == {"failed"}
    assert batch.results["b.png"].message == "it needs 'a.png', which failed"


def test_a_file_of_the_users_is_not_replaced(batch: Batch) -> None:
    batch.out.mkdir()
    (batch.out / "b.png").write_bytes(b"mine")
    assert batch.run() == {**ALL_MADE, "b.png": "failed"}
    assert "exists already; move it away, choose another name, or --force" in batch.results["b.png"].message
    assert (batch.out / "b.png").read_bytes() == b"mine"
    assert batch.run(force=True) == {**UNCHANGED, "b.png": "made"}


def test_a_clip_that_was_changed_since_is_not_replaced(batch: Batch) -> None:
    batch.run()
    (batch.out / "b.png").write_bytes(b"retouched")
    assert batch.run()["b.png"] == "failed"
    assert "was changed since this batch made it" in batch.results["b.png"].message
    assert (batch.out / "b.png").read_bytes() == b"retouched"


def test_not_even_force_replaces_an_input(batch: Batch, tmp_path: Path) -> None:
    batch.out.mkdir()
    (batch.out / "c.png").write_bytes(b"a source")
    (tmp_path / "in.png").unlink()
    os.link(batch.out / "c.png", tmp_path / "in.png")
    assert batch.run(force=True) == {**ALL_MADE, "c.png": "failed"}
    assert "is an input of this batch" in batch.results["c.png"].message
    assert (batch.out / "c.png").read_bytes() == b"a source"


def killed(_: object) -> None:
    raise KeyboardInterrupt


def test_a_clip_that_was_written_and_not_written_down_is_found(batch: Batch) -> None:
    batch.pool.meanwhile["b.png"] = killed
    with pytest.raises(KeyboardInterrupt):
        batch.run()
    assert {name: result.status for name, result in batch.results.items()} == {"a.png": "made"}
    assert isinstance(batch.examiner().look(batch.jobs()[1]), Found)
    assert batch.run() == {"a.png": "unchanged", "b.png": "unchanged", "c.png": "made"}
    assert batch.pool.made == ["c.png"]
    assert batch.run() == UNCHANGED


def test_what_a_gate_refuses_is_set_aside_and_told_and_no_other_job_reads_it(batch: Batch) -> None:
    batch.pool.black = {"b.png"}
    batch.prompts["d.png"], batch.reads["d.png"] = "d", "out/b.png"
    assert batch.run(check=True) == {**ALL_MADE, "b.png": "failed", "d.png": "failed"}
    said = batch.results["b.png"].message
    assert said == (
        "refused by the gate 'black' (2.00 s are black, --max-black is 0.5 s) of `sky4 check`; the clip lies in "
        "'refused/b.png'"
    )
    assert not (batch.out / "b.png").exists() and (batch.out / "refused" / "b.png").is_file()
    assert batch.results["d.png"].message == "it needs 'b.png', which failed"
    line = batch.examiner().journal.of("b.png").last
    assert (line["event"], line["message"], line["refused"]) == ("failed", said, "refused/b.png")
    assert batch.run(check=True)["b.png"] == "failed" and batch.pool.made == []
    assert "--retry-failed tries it again" in batch.results["b.png"].message
    assert batch.run(check=True, retry_failed=True)["b.png"] == "failed" and batch.pool.made == ["b.png"]
    assert batch.run(check=False) == {**UNCHANGED, "b.png": "made", "d.png": "made"}


def test_a_clip_that_is_found_is_checked_too(batch: Batch) -> None:
    batch.pool.meanwhile["b.png"] = killed
    with pytest.raises(KeyboardInterrupt):
        batch.run(check=True)
    batch.pool.meanwhile.clear()
    assert batch.run(check=True)["b.png"] == "failed"
    assert "refused by the gate 'recipe' (its recipe has no checksums of latents" in batch.results["b.png"].message
    assert (batch.out / "refused" / "b.png").is_file()


def test_a_recipe_beside_the_clip_is_part_of_what_is_finished(batch: Batch) -> None:
    assert batch.run() == ALL_MADE
    batch.provenance = Provenance(sidecar=True)
    assert batch.run() == ALL_MADE
    assert batch.run() == UNCHANGED
    (batch.out / "b.png.json").unlink()
    assert batch.run() == {**UNCHANGED, "b.png": "made"}
    assert (batch.out / "b.png.json").is_file()


def test_a_file_of_somebodys_where_a_recipe_would_go_stays(batch: Batch) -> None:
    batch.provenance = Provenance(sidecar=True)
    batch.out.mkdir()
    (batch.out / "b.png.json").write_text("mine")
    assert batch.run() == {**ALL_MADE, "b.png": "failed"}
    assert "b.png.json', where the recipe goes, exists already" in batch.results["b.png"].message
    assert (batch.out / "b.png.json").read_text() == "mine"
    assert batch.run(force=True)["b.png"] == "made"


def test_a_clip_without_a_recipe_that_was_not_written_down_is_made_anew(batch: Batch) -> None:
    batch.provenance = Provenance(inside=False)
    batch.pool.meanwhile["b.png"] = killed
    with pytest.raises(KeyboardInterrupt):
        batch.run()
    batch.pool.meanwhile.clear()
    assert batch.run() == {"a.png": "unchanged", "b.png": "made", "c.png": "made"}
    assert batch.run() == UNCHANGED


def test_what_a_killed_process_left_half_written_is_swept_and_made_anew(batch: Batch) -> None:
    batch.pool.meanwhile["b.png"] = killed
    with pytest.raises(KeyboardInterrupt):
        batch.run()
    (batch.out / "b.png").rename(batch.out / ".b.png.123.partial")
    (batch.out / ".bb.png.123.partial").touch()
    verdict = batch.examiner().look(batch.jobs()[1])
    assert isinstance(verdict, Make)
    assert verdict.why == "unfinished"
    batch.pool.meanwhile.clear()
    assert batch.run()["b.png"] == "made"
    assert not (batch.out / ".b.png.123.partial").exists()
    assert (batch.out / ".bb.png.123.partial").exists()


def test_a_full_disk_under_the_journal_fails_the_job_alone(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    append = Journal.append

    def full(self: Journal, locks: Locks, event: Any, job: str, key: str, **told: Any) -> dict[str, Any]:
        if job == "b.png" and event == "done":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return append(self, locks, event, job, key, **told)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", full)
        assert batch.run() == {**ALL_MADE, "b.png": "failed"}
        assert "cannot be written (No space left on device); free some space" in batch.results["b.png"].message
    assert batch.run() == UNCHANGED


def test_a_place_that_cannot_be_written_fails_its_job_alone(batch: Batch) -> None:
    batch.prompts["sub/d.png"] = "d"
    batch.out.mkdir()
    (batch.out / "sub").write_bytes(b"a file")
    assert batch.run() == {**ALL_MADE, "sub/d.png": "failed"}


def test_what_another_process_is_making_is_waited_for_and_not_made_twice(batch: Batch) -> None:
    other = Locks(batch.out / ".locks")
    held = other.acquire("job b.png")
    assert held is not None
    waited: list[float] = []

    def finish(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            made_elsewhere(batch, other, held)

    batch.pause = finish
    assert batch.run() == {**ALL_MADE, "b.png": "unchanged"}
    assert batch.pool.made == ["a.png", "c.png"]
    assert len(waited) == 2


def made_elsewhere(batch: Batch, locks: Locks, held: Held) -> None:
    """Another process makes b.png, writes it down and gives the lock back."""
    examiner = batch.examiner()
    verdict = examiner.look(next(job for job in batch.jobs() if job.name == "b.png"))
    assert isinstance(verdict, Make)
    out, ready = batch.out / "b.png", verdict.ready
    draw(Order(ready.request, ready.engine, out, verdict.model, batch.out / "state", verdict.replace))
    examiner.journal.append(locks, "done", "b.png", verdict.key, output=mark_of(batch.out / "b.png"))
    locks.release(held)


def test_a_clip_that_another_process_has_just_written_down_is_not_taken_for_somebodys_file(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sky4.batch.examine.recipe_of", lambda _: None)  # a format that tells nothing
    other, plan, planned = Locks(batch.out / ".locks"), Batch.plan, list[str]()

    def slow_plan(self: Batch, job: Job) -> Ready:
        planned.append(job.name)
        if planned.count("b.png") == 2:  # the journal has been read, and the disk has not
            held = other.acquire("job b.png")
            assert held is not None
            made_elsewhere(batch, other, held)
        return plan(self, job)

    monkeypatch.setattr(Batch, "plan", slow_plan)
    assert batch.run() == {**ALL_MADE, "b.png": "unchanged"}
    assert batch.pool.made == ["a.png", "c.png"]


def test_whoever_stood_still_and_was_outlived_does_not_write_a_job_down_again(batch: Batch) -> None:
    def outlived(_: Order) -> None:
        [lock] = [path for path in (batch.out / ".locks").glob("*/*") if b'"free"' not in path.read_bytes()]
        lock.with_name(str(int(lock.name) + 1)).write_text("{}")  # of a machine unknown here, as after a lease
        batch.pool.meanwhile.clear()

    batch.pool.meanwhile["b.png"] = outlived

    def other_ends(_: float) -> None:
        [lock] = [path for path in (batch.out / ".locks").glob("*/*") if path.read_text() == "{}"]
        lock.write_text('{"free": true}')

    batch.pause = other_ends
    assert batch.run()["b.png"] == "unchanged"
    done = [line for line in (batch.out / "journal.jsonl").read_text().splitlines() if '"event":"done"' in line]
    assert len(done) == 3


def test_a_model_that_changes_under_a_running_batch_ends_it(batch: Batch, tmp_path: Path) -> None:
    def other_weights(_: Order) -> None:
        (tmp_path / "model" / "a.safetensors").write_bytes(b"others!")

    batch.pool.meanwhile["b.png"] = other_weights
    assert batch.run() == {"a.png": "made", "b.png": "failed", "c.png": "not begun"}
    assert "changed while the batch was running; start it again" in batch.results["b.png"].message
    assert not (batch.out / "b.png").exists()
    batch.pool.meanwhile.clear()
    assert batch.run() == ALL_MADE


def test_an_input_that_changes_while_its_clip_is_made_fails_that_job(batch: Batch, tmp_path: Path) -> None:
    batch.pool.meanwhile["b.png"] = lambda _: (tmp_path / "in.png").write_bytes(b"another")
    assert batch.run() == {**ALL_MADE, "b.png": "failed"}
    assert "an input changed" in batch.results["b.png"].message
    batch.pool.meanwhile.clear()
    assert batch.run()["b.png"] == "made"
