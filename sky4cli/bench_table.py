"""The figures of `sky4 bench` for people: tables of at most 100 columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from sky4.bench.ptxas import CompiledKernel
    from sky4.bench.record import Change, Document, NotRun, Row

COLUMNS = 100
SUBJECT = 24  # columns for a candidate's name; longer ones are folded


def show(*tables: Table) -> None:
    # in a pipe rich assumes 80 columns; colours it leaves out there by itself
    console = Console(highlight=False, width=None if Console().is_terminal else COLUMNS)
    for table in tables:
        console.print(table)


def show_document(document: Document) -> None:
    """The machine, its roofs, a table of the rows by case, and what was not run."""
    facts = document.environment
    isa = f", {facts['isa']}" if facts["isa"] else ""
    commit = f", commit {facts['commit'][:10]}{' and changes' if facts['modified'] else ''}" if facts["commit"] else ""
    print(f"{facts['device']}, {facts['threads']} threads{isa}, {facts['dtype']}, torch {facts['torch']}{commit}")
    for roof in document.roofs:
        if roof["name"] == "matmul":
            print(f"matrix product {roof['size']}^3 in {roof['dtype']}: {_flop_rate(roof['flop_per_second'])}")
        else:
            print(f"copy of {roof['size'] >> 20} MiB, read and written: {roof['bytes_per_second'] / 1e9:.1f} GB/s")
    show(*rows_tables(document.rows))
    for line in not_run_lines(document.not_run):
        print(line)


def rows_tables(rows: Sequence[Row]) -> list[Table]:
    """A table for each case with a line for each candidate; columns that no row at all fills are left out."""
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("median", lambda row: seconds(row.timing.median)),
        ("p10", lambda row: seconds(row.timing.p10)),
        ("p90", lambda row: seconds(row.timing.p90)),
        ("n", lambda row: str(row.timing.n)),
        ("FLOP/s", lambda row: _flop_rate(row.flop_per_second).removesuffix("FLOP/s").rstrip()),
        ("GB/s", lambda row: "" if row.bytes_per_second is None else _short(row.bytes_per_second / 1e9)),
        ("matmul", lambda row: percent(row.share_of_matmul)),
        ("f32", lambda row: percent(row.share_of_matmul_float32)),
        ("copy", lambda row: percent(row.share_of_copy)),
        ("share", lambda row: percent(row.share_of_total)),
        ("speed-up", lambda row: "" if row.speedup is None else f"{row.speedup:.2f}x"),
        ("x ours", lambda row: "" if row.times_ours is None else f"{row.times_ours:.2f}"),
        ("error", lambda row: "" if row.max_error is None else f"{row.max_error:.1e}"),
        ("PSNR", lambda row: "" if row.latent_psnr is None else _decibel(row.latent_psnr)),
        ("log-mel", lambda row: "" if row.log_mel_distance is None else f"{row.log_mel_distance:.2f} dB"),
        ("peak", lambda row: "" if row.peak_bytes is None else f"{row.peak_bytes / 2**30:.2f} GiB"),
    ]
    filled = [(name, text) for name, text in columns if any(text(row) for row in rows)]
    widths = [max(len(name), *(len(text(row)) for row in rows)) for name, text in filled]
    subjects = max((len(row.subject) for row in rows), default=0)
    cases: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.case.partition(" ")[0]):  # kernel by kernel, else as measured
        cases.setdefault(row.case, []).append(row)
    tables = []
    for case, its in cases.items():
        table = Table(
            box=None, title=case, title_justify="left", title_style="bold", pad_edge=False, padding=(0, 1, 0, 0)
        )
        table.add_column("", min_width=min(subjects, SUBJECT), max_width=SUBJECT, overflow="fold")
        for (name, _), width in zip(filled, widths, strict=True):
            table.add_column(name, justify="right", no_wrap=True, min_width=width, header_style="dim")
        for row in its:
            table.add_row(row.subject, *(text(row) for _, text in filled))
        tables.append(table)
    return tables


def not_run_lines(items: Sequence[NotRun]) -> list[str]:
    """One line for each subject and reason, with its cases counted where they are several."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for item in items:
        grouped.setdefault((item.subject, item.reason), []).append(item.case)
    return [
        f"not run: {subject}, {names[0] if len(names) == 1 else f'{len(names)} cases'}: {reason}"
        for (subject, reason), names in grouped.items()
    ]


def show_changes(changes: Sequence[Change]) -> None:
    """Each of our rows then and now."""
    table = Table(box=SIMPLE, title="against the baseline", title_justify="left", pad_edge=False)
    table.add_column("case", overflow="fold")
    for name in ("before", "now", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    for change in changes:
        subject = "" if change.subject == "sky4" else f", {change.subject}"
        name = f"{change.case}{subject}"
        table.add_row(name, seconds(change.before), seconds(change.now), f"{100 * change.share:+.1f} %")
    show(table)


def compiled_table(kernels: Sequence[CompiledKernel]) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("kernel", overflow="fold")
    table.add_column("for")
    for name in ("registers", "stack", "spill st/ld", "shared"):
        table.add_column(name, justify="right", no_wrap=True)
    for kernel in kernels:
        spills = f"{kernel.spill_stores}/{kernel.spill_loads}"
        shared = f"{kernel.shared_bytes} B"
        table.add_row(kernel.name, kernel.arch, str(kernel.registers), f"{kernel.stack_bytes} B", spills, shared)
    return table


def seconds(value: float) -> str:
    """1.5e-5 as '15.0 us'."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} us"


def percent(share: float | None) -> str:
    return "" if share is None else f"{_short(100 * share)}%"


def _short(value: float) -> str:
    """Three digits at most."""
    return "<0.1" if 0 < value < 0.1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _decibel(value: float) -> str:
    return "equal" if value >= 999 else f"{value:.1f} dB"


def _flop_rate(rate: float | None) -> str:
    from sky4.bench.plot import flop_rate

    return "" if rate is None else flop_rate(rate)
