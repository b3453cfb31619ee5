"""What jobs have to do with one another: outputs that two would write, inputs that another makes, circles of those."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from sky4.batch.jobs import Job, real
from sky4.batch.manifest import Fault


def in_order(jobs: Iterable[Job]) -> tuple[list[Job], list[Fault]]:
    """The jobs so that each comes after those whose outputs it reads, else as they were; and faults for the rest.

    Refused are: an output that an earlier job writes, or that lies inside another's folder; jobs that need their own
    output, directly or by others; and jobs that need a refused one.
    """
    kept, faults = _one_writer_each(list(jobs))
    linked = {job.name: job for job in _linked(kept)}
    refused: dict[str, str] = {}
    after = {job.name: set(job.after) for job in linked.values()}
    while True:
        try:
            order = list(TopologicalSorter(after).static_order())
            break
        except CycleError as error:
            circle: list[str] = error.args[1]
            told = " -> ".join(f"'{name}'" for name in circle)
            refused |= dict.fromkeys(circle, f"it needs its own output: {told}; give one of them another input")
            after = {name: needs - set(circle) for name, needs in after.items() if name not in circle}
    for name in order:
        needs = [other for other in linked[name].after if other in refused]
        if needs:
            refused[name] = f"it needs '{needs[0]}', which is refused"
    faults += [Fault(linked[name].place, linked[name].number, why) for name, why in refused.items()]
    placed = _steady([job for job in linked.values() if job.name not in refused])
    return placed, sorted(faults, key=lambda fault: fault.number)


def _one_writer_each(jobs: list[Job]) -> tuple[list[Job], list[Fault]]:
    kept: dict[str, Job] = {}
    faults = []
    for job in jobs:
        # some file systems see no difference between capitals and small letters
        before = kept.get(job.name.casefold())
        if before is not None:
            where = f"line {before.place.line}" if before.place.line else f"'{before.place.file.name}'"
            faults.append(
                Fault(job.place, job.number, f"'{job.name}' is already the output of {where}; choose another name")
            )
        else:
            kept[job.name.casefold()] = job
    outs = {real(job.out): job for job in kept.values()}
    inside = {}
    for key, job in kept.items():
        holder = next((outs[folder] for folder in real(job.out).parents if folder in outs), None)
        if holder is not None:
            told = f"'{job.name}' lies inside the output '{holder.name}' of line {holder.place.line}; choose another"
            inside[key] = Fault(job.place, job.number, told)
    return [job for key, job in kept.items() if key not in inside], [*faults, *inside.values()]


def _linked(jobs: list[Job]) -> list[Job]:
    """Each job with those it comes after: the writers of its inputs, or of the folders that they lie in."""
    writers: Mapping[Path, str] = {real(job.out): job.name for job in jobs}

    def needs(job: Job) -> tuple[str, ...]:
        found = []
        for path in job.inputs:
            place = real(path)
            found += [writers[name] for name in (place, *place.parents) if name in writers]
        return tuple(dict.fromkeys(found))

    return [replace(job, after=needs(job)) for job in jobs]


def _steady(jobs: list[Job]) -> list[Job]:
    """As they were, but each behind what it comes after."""
    by_name = {job.name: job for job in jobs}
    placed: dict[str, Job] = {}
    for job in jobs:
        stack = [job]
        while stack:
            missing = [by_name[name] for name in stack[-1].after if name not in placed]
            if missing and stack[-1].name not in placed:
                stack.append(missing[0])
            else:
                last = stack.pop()
                placed.setdefault(last.name, last)
    return list(placed.values())
