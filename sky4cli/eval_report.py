"""Where `sky4 eval` writes its results, and how it tells them: a JSON, a picture, tables for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sky4.errors import RequestError
from sky4.files import replacing

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.table import Table

    from sky4.evaluation.long import LongEvaluation
    from sky4.evaluation.refiner import RefinerEvaluation
    from sky4.evaluation.tasks import TaskMeasure
    from sky4.evaluation.world import Evaluation
    from sky4.pipeline.clip import Clip
    from sky4.pipeline.request import ClipRequest

RESULTS, SHEET, CLIPS = "results.json", "contact_sheet.png", "clips"


def check_folder(out: Path, force: bool) -> None:
    """RequestError for a place where results cannot be written, or lie already."""
    if out.exists() and not out.is_dir():
        raise RequestError(f"--out {out} is a file; name a folder")
    found = [name for name in (RESULTS, SHEET) if (out / name).exists()]
    if found and not force:
        raise RequestError(f"--out {out} holds {found[0]} already; choose another folder, or --force to replace it")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--out {out} cannot be made ({error.strerror}); choose another folder") from error


def keeper(out: Path, force: bool) -> Callable[[int, Clip], None]:
    """What saves clip number n as clips/00n.mp4."""
    (out / CLIPS).mkdir(exist_ok=True)

    def keep(number: int, clip: Clip) -> None:
        clip.save(out / CLIPS / f"{number:03d}.mp4", force=force)

    return keep


def settings(of: str, suite: dict[str, Any], request: ClipRequest, model: str) -> dict[str, Any]:
    """What the numbers belong to."""
    told: dict[str, Any] = {"measured": of, **suite, "model": model}
    told |= {"size": request.width, "frames": request.frames, "fps": str(request.fps)}
    if of == "model":
        names = ("steps", "sampler", "guidance", "audio_guidance", "shift", "seed")
        told |= {name: getattr(request, name) for name in names}
    return told


def write_results(out: Path, results: dict[str, Any], sheet: Image) -> None:
    """Both files whole or not at all."""
    from sky4.media.destination import whole_or_nothing

    with whole_or_nothing(out / SHEET, force=True) as partial:
        sheet.save(partial, format="PNG")
    with replacing(out / RESULTS) as partial:
        partial.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")


def say_measures(told: dict[str, Any], result: Evaluation) -> None:
    """The table of prompts, for people."""
    title = f"{told['measured']}: {len(result.rows)} {told['prompts']} prompts, {told['size']} pixels"
    table = _table(f"{title}, {told['frames']} frames", "measure", (told["measured"], "chance", "renders", "on"))
    for measure in result.table:
        best = result.ceiling.get(measure.name, float("nan"))
        numbers = (_number(value, measure.unit) for value in (measure.value, measure.chance, best))
        table.add_row(measure.name, *numbers, str(measure.count))
    _print(table)


def say_tasks(told: dict[str, Any], tasks: Sequence[TaskMeasure], rows: Sequence[TaskMeasure]) -> None:
    """The table of tasks, for people; rows of the report's table that have parts are told once more as a whole."""
    title = f"{told['measured']}: {told['cases_each']} held-out cases a task, {told['size']} pixels"
    headings = ("edited", "kept", "both", "chance", "codec", "n", "dB kept", "sound", "|offset|")
    table = _table(f"{title}, {told['frames']} frames", "task", headings)
    wholes = [line for line in rows if line.title not in {task.title for task in tasks}]
    for number, line in enumerate([*tasks, *wholes]):
        if number == len(tasks):
            table.add_section()
        shares = (_share(value) for value in (line.edited, line.kept, line.both, line.chance, line.codec))
        psnr = "-" if line.psnr is None else f"{line.psnr:.1f}"
        late = "-" if line.offset is None else f"{1000 * line.offset:.0f} ms"
        name = line.title if line.name == line.title else line.name
        table.add_row(name, *shares, str(line.count), psnr, _share(line.material), late)
    _print(table)


def say_refiner(told: dict[str, Any], result: RefinerEvaluation) -> None:
    """What refining gains, for people."""
    sizes = f"{told['size']} to {2 * told['size']} pixels"
    table = _table(f"refiner of {told['model']}: {len(result.cases)} held-out scenes, {sizes}", "measure", ("mean",))
    for name, value, unit in result.table:
        table.add_row(name, _number(value, unit))
    _print(table)


def say_long(told: dict[str, Any], result: LongEvaluation) -> None:
    """The table of transitions, and the detector's own on what is drawn, for people."""
    title = f"{told['measured']}: {told['cases_each']} held-out cases a transition, {told['size']} pixels"
    headings = ("switched", "kind found", "guess alone", "subject", "chance", "n")
    table = _table(f"{title}, {told['frames']} frames", "transition", headings)
    for line in result.table:
        shares = (line.switched, line.kind_found, line.guessed, line.subject, line.chance)
        table.add_row(line.kind, *map(_share, shares), str(line.count))
    if result.identity is not None:
        table.add_section()
        table.add_row("the same subject in both shots", "-", "-", "-", _share(result.identity), "-", "-")
    _print(table)
    heads = result.heads
    if heads is not None:
        table = _table(f"heads that talk for {heads.seconds:g} s", "measure", ("value", "chance", "n"))
        lag = "-" if heads.median_lag is None else f"{heads.median_lag:.2f} frames"
        table.add_row("something follows the sound", _share(heads.follows), "-", str(heads.count))
        table.add_row("median |lag| of lips where it does", lag, "-", str(round(heads.follows * heads.count)))
        table.add_row("the same head in the last second", _share(heads.same), _share(heads.chance), str(heads.count))
        table.add_row("last second against the truth (PSNR)", f"{heads.likeness:.1f} dB", "-", str(heads.count))
        _print(table)
    table = _table("the detector on drawn stories", "transition", ("precision", "recall", "n"))
    for kind, found in result.detector["optical"].items():
        table.add_row(kind, _share(found["precision"]), _share(found["recall"]), str(found["count"]))
    table.add_section()
    for peer in result.peers:
        of = "its own threshold" if peer.default else "its best threshold"
        name = f"cut: {peer.name} of PySceneDetect, {of} {peer.threshold:g}"
        table.add_row(name, _share(_there(peer.precision)), _share(_there(peer.recall)), "-")
    table.add_section()
    for kind, share in result.detector["content"].items():
        table.add_row(kind, "-", _share(share), "-")
    _print(table)


def _table(title: str, first: str, headings: Sequence[str]) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(title=title, box=SIMPLE, title_justify="left")
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _print(table: Table) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:  # in a pipe rich assumes 80 columns, and would cut the names short
        console = Console(highlight=False, width=120)
    console.print(table, soft_wrap=not console.is_terminal)


def _there(value: float) -> float | None:
    """None for what is not a number."""
    return None if value != value else value


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _number(value: float, unit: str) -> str:
    if value != value:  # not a number: nothing to compare with
        return "-"
    return {"share": f"{100 * value:.1f} %", "ms": f"{value:.1f} ms", "dB": f"{value:.1f} dB"}.get(unit, f"{value:.3f}")
