"""`sky4 check`: files measured and held against limits, gate by gate; and the same of each clip that is made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sky4.errors import RequestError, Sky4Failure
from sky4cli.options import Json, Quiet

if TYPE_CHECKING:
    from sky4.checking import Facts, Verdict
    from sky4cli.console import Reporter

SCHEMA_VERSION = 1
EXAMPLES = (
    "sky4 check clip.mp4 --skip recipe",
    "sky4 check clip.mp4 --skip recipe --max-tail 0.02 --max-loudness -9 --json",
)


def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Clips, pictures, sounds or folders.")],
    skip: Annotated[
        list[str] | None,
        typer.Option("--skip", metavar="GATE", help="Leave a gate out, such as recipe for a clip of another tool."),
    ] = None,
    max_black: Annotated[float, typer.Option("--max-black", metavar="S", help="Longest black part.")] = 0.5,
    max_frozen: Annotated[float, typer.Option("--max-frozen", metavar="S", help="Longest part that stands still.")] = 2,
    max_repeated: Annotated[
        float, typer.Option("--max-repeated", metavar="S", help="Longest part that was shown before.")
    ] = 1,
    max_tail: Annotated[
        float, typer.Option("--max-tail", metavar="S", help="How much longer or shorter the sound may be.")
    ] = 0.05,
    max_clipped: Annotated[
        float, typer.Option("--max-clipped", metavar="SHARE", help="Of samples that are cut off at full scale.")
    ] = 0.001,
    max_silent: Annotated[float, typer.Option("--max-silent", metavar="SHARE", help="Of silence in the sound.")] = 0.95,
    min_loudness: Annotated[float, typer.Option("--min-loudness", metavar="LUFS", help="By EBU R128.")] = -60,
    max_loudness: Annotated[float, typer.Option("--max-loudness", metavar="LUFS", help="By EBU R128.")] = -5,
    max_true_peak: Annotated[
        float | None, typer.Option("--max-true-peak", metavar="DBTP", help="Highest true peak. Default: any.")
    ] = None,
    max_offset: Annotated[
        float, typer.Option("--max-offset", metavar="S", help="How far sound may lie from what is seen.")
    ] = 0.2,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure finished files and refuse what is broken in them: exit 1 where a gate fails."""
    from sky4.checking import GATES, Limits, judge, measure
    from sky4cli.console import Reporter

    unknown = next((name for name in skip or () if name not in GATES), None)
    if unknown is not None:
        raise RequestError(f"--skip {unknown} is no gate; the gates are {', '.join(GATES)}")
    for path in files:
        if not (path.is_file() or path.is_dir()):
            raise RequestError(f"'{path}' does not exist or is no file; give a clip, picture, sound or folder")
    limits = Limits(
        black=max_black,
        frozen=max_frozen,
        repeated=max_repeated,
        tail=max_tail,
        clipped=max_clipped,
        silent=max_silent,
        quietest=min_loudness,
        loudest=max_loudness,
        true_peak=math.inf if max_true_peak is None else max_true_peak,
        offset=max_offset,
    )
    told, refused = [], 0
    with Reporter(quiet=quiet, as_json=as_json) as reporter:
        for number, path in enumerate(files):
            reporter.stage("checking", number, len(files))
            facts = measure(path)
            verdicts = judge(facts, limits, skip or ())
            failed = [verdict for verdict in verdicts if verdict.failed]
            refused += bool(failed)
            for verdict in failed:
                reporter.result(f"{path}  FAILED {verdict.gate}: {verdict.told}")
            if not failed:
                reporter.result(f"{path}  passed  {_line(verdicts)}")
            told.append(_entry(facts, verdicts))
        reporter.record({"version": SCHEMA_VERSION, "files": told})
    if refused:
        raise Sky4Failure(f"{refused} of {len(files)} files failed a gate" if len(files) > 1 else "a gate failed")


def warn_failed(path: Path, reporter: Reporter, skip: Sequence[str] = ()) -> dict[str, Any]:
    """Check a file that was just made, with the usual limits: a warning for each failed gate; JSON values."""
    from sky4.checking import Limits, judge, measure, verdict_values

    verdicts = judge(measure(path), Limits(), skip)
    for verdict in verdicts:
        if verdict.failed:
            reporter.note(f"warning: {path} fails the gate '{verdict.gate}' of `sky4 check`: {verdict.told}")
    return verdict_values(verdicts)


def _line(verdicts: Sequence[Verdict]) -> str:
    """What is worth reading of a file that passed."""
    shown = ("frames", "rate", "tail", "loudness", "sync")
    return "  ".join(verdict.told for verdict in verdicts if verdict.gate in shown and verdict.passed)


def _entry(facts: Facts, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    from sky4.checking import verdict_values

    return {"path": str(facts.path), **verdict_values(verdicts), **facts.to_dict()}
