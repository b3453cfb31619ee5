"""`sky4 batch`: many jobs from a list or a folder; what is finished is skipped, what fails spares the rest."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from sky4.errors import RequestError
from sky4cli.options import Json, Quiet

if TYPE_CHECKING:
    from sky4.batch.jobs import Job
    from sky4.batch.locks import Locks
    from sky4.batch.manifest import Fault, Row
    from sky4.batch.pool import Pool
    from sky4.batch.run import Run
    from sky4cli.console import Reporter

EXAMPLES = (
    "sky4 batch jobs.jsonl -o out",
    'sky4 batch inputs --command edit --prompt "replace the red circle with a blue star" -o edited',
)
SOME_FAILED = 4
SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")
ADDRESS = re.compile(r"auto|local|(ray://)?[\w.\-\[\]:]+:\d+")


class BatchCommand(typer.core.TyperCommand):
    """Reads `--ray` with and without an ADDRESS, and leaves what it does not know to the jobs' own commands."""

    ignore_unknown_options = True
    allow_extra_args = True

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        read = []
        for word, after in zip(args, [*args[1:], ""], strict=True):
            alone = word == "--ray" and not ADDRESS.fullmatch(after)
            read += ["--ray", "local"] if alone else [word]
        return super().parse_args(ctx, read)


def batch(
    ctx: typer.Context,
    jobs: Annotated[
        Path,
        typer.Argument(metavar="JOBS", help="A .jsonl, .csv or .yaml with a job in each row, or a folder of inputs."),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FOLDER", help="Where the clips and the journal go.")],
    command: Annotated[
        str,
        typer.Option("--command", metavar="NAME", help="Of jobs that name none: generate, inpaint, edit ..."),
    ] = "generate",
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed in an earlier run.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="Part I, from 1, of N: the others run elsewhere.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be done, and do nothing.")] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going/--fail-fast", help="Go on after a job that failed, or begin no other.")
    ] = True,
    allow_outside: Annotated[
        bool, typer.Option("--allow-outside", help="Let jobs name files outside of the list's own folder.")
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option("--ray", metavar="[ADDRESS]", help="Work on a Ray cluster; without an address on this machine."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", help="With --ray; default: one for each GPU, or machine.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check/--no-check", help="Whether a clip that fails a gate of `sky4 check` is set aside."),
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace outputs that this batch did not make.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make many clips. A row's names are the flags of its command; other options here are given to every job."""
    from sky4.batch.examine import Examiner
    from sky4.batch.journal import Journal
    from sky4.batch.locks import Locks
    from sky4.batch.run import Run, inputs_of
    from sky4cli.batch_flags import plan
    from sky4cli.batch_report import Told, list_plans
    from sky4cli.console import Reporter

    part = _part(shard)
    if workers is not None and (ray is None or not 1 <= workers <= 10_000):
        raise RequestError(
            f"--workers {workers}: a number from 1 to 10000, and only with --ray; two runs share a folder"
        )
    if ray is not None:
        from sky4.batch.ray_pool import require_ray

        require_ray()
    if out.exists() and not out.is_dir():
        raise RequestError(f"--out {out} is a file; name a folder")
    found, faults, notes = read_jobs(jobs, out, command, ctx.args, allow_outside)
    if part is not None:
        from sky4.batch.jobs import shard as part_of

        found = part_of(found, *part)
        faults = [fault for fault in faults if fault.number % part[1] == part[0] - 1]
    journal = Journal(out)
    journal.refresh()
    if journal.skipped:
        notes.append(f"{journal.skipped} lines of '{journal.path}' were cut or changed, and are skipped")
    examiner = Examiner(plan, journal, inputs_of(found), force, retry_failed, check)
    with Reporter(quiet=quiet, as_json=as_json) as reporter:
        for note in notes:
            reporter.note(f"note: {note}")
        told = Told(faults, len(found) + len(faults), reporter)
        if dry_run:
            failed = list_plans(found, examiner, told, reporter)
        else:
            locks = Locks(_make_folder(out))
            run = Run(found, examiner, journal, locks, _pool(ray, workers, reporter), told.result, not keep_going)
            if faults and not keep_going:
                told.leave(found, "a row cannot be read, and --fail-fast was asked for")
                run.jobs = []
            interrupted = _interrupted(run, locks)
            told.summary(out, found, run.pool.lost)
            if interrupted:
                raise KeyboardInterrupt
            failed = told.failed
    if failed:
        raise typer.Exit(SOME_FAILED)


def read_jobs(
    source: Path, out: Path, command: str, words: list[str], allow_outside: bool
) -> tuple[list[Job], list[Fault], list[str]]:
    """(jobs in order, faults of rows that are none, notes). RequestError for a batch that is none."""
    from sky4.batch.folder import rows_of_folder
    from sky4.batch.jobs import Layout, jobs_of
    from sky4.batch.manifest import Fault, Misread, read_manifest
    from sky4.batch.order import in_order
    from sky4cli.batch_flags import commands, folder_inputs, read_template

    if str(source).startswith("-"):
        raise RequestError(f"{source} stands where the jobs belong: sky4 batch JOBS -o OUT [options]")
    if command not in commands():
        raise RequestError(f"--command {command} is unknown; use one of {', '.join(commands())}")
    template = read_template(words)
    notes: list[str] = []
    read: list[Row | Fault]
    if source.is_dir():
        if source.resolve() == out.resolve():
            raise RequestError(f"--out {out} is the folder of inputs, whose files outputs could replace; name another")
        rows, left = rows_of_folder(source, *folder_inputs(command, template))
        read = [*rows]
        if left:
            notes.append(f"{len(left)} files of '{source}' are not taken, such as '{left[0].name}'")
    else:
        read = read_manifest(source)
    layout = Layout((source if source.is_dir() else source.parent).absolute(), out.absolute(), allow_outside)
    jobs: list[Job] = []
    faults: list[Fault] = []
    for row in read:
        if isinstance(row, Fault):
            faults.append(row)
            continue
        try:
            jobs += jobs_of(row, commands(), command, template, layout)
        except Misread as error:
            faults.append(Fault(row.place, row.number, str(error)))
    ordered, more = in_order(jobs)
    return ordered, sorted([*faults, *more], key=lambda fault: fault.number), notes


def _interrupted(run: Run, locks: Locks) -> bool:
    """Run it. Returns whether it was interrupted, by a key or by what ends processes on a cluster."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with locks:
            try:
                run.go()
            finally:
                run.close()
    except KeyboardInterrupt:
        return True
    finally:
        signal.signal(signal.SIGTERM, before)
    return False


def _pool(ray: str | None, workers: int | None, reporter: Reporter) -> Pool:
    if ray is not None:
        from sky4.batch.ray_pool import RayPool

        return RayPool(ray, workers)
    from sky4.batch.pool import LocalPool
    from sky4cli.startup import load_libraries

    def loading_alone(name: str, done: int, total: int) -> None:
        if name == "loading":  # in a log, a line for each stage of each job would drown the jobs
            reporter.stage(name, done, total)

    return LocalPool(reporter.stage if sys.stderr.isatty() else loading_alone, load_libraries)


def _make_folder(out: Path) -> Path:
    from sky4.batch.jobs import OWN_FOLDER

    try:
        (out / OWN_FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--out {out} cannot be written ({error.strerror}); choose another folder") from error
    return out / OWN_FOLDER


def _part(shard: str | None) -> tuple[int, int] | None:
    if shard is None:
        return None
    read = SHARD.fullmatch(shard)
    if read is None or not 1 <= int(read[1]) <= int(read[2]):
        raise RequestError(f"--shard {shard}: expected I/N with I from 1 to N, for example 1/4")
    return int(read[1]), int(read[2])
