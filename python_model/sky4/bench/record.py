"""The document of one run: rows of figures, what was not run and why, the machine. SCHEMA.md describes it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sky4.bench.timing import Timing
from sky4.config import config_from_dict
from sky4.errors import RequestError

SCHEMA, VERSION = "sky4-bench", 1
COMMANDS = ("kernels", "stages", "e2e", "quality", "tower")
DEVICE_KEYS = ("device", "cores", "threads", "isa")  # what must agree for two runs to be compared


@dataclass(frozen=True)
class Row:
    """One candidate of one case. None: does not apply, or was not measured."""

    case: str  # what is computed, on which shape; (case, subject) is the row's key
    subject: str  # who computes it
    ours: bool
    timing: Timing
    backend: str | None = None
    flop: int | None = None  # by the convention of SCHEMA.md; a multiply and an add are two
    bytes: int | None = None  # that must be read and written once
    flop_per_second: float | None = None
    bytes_per_second: float | None = None
    share_of_matmul: float | None = None
    share_of_matmul_float32: float | None = None
    share_of_copy: float | None = None
    share_of_total: float | None = None  # of a generation's time
    times_ours: float | None = None  # its time over ours, the median over the rounds; above 1 ours is faster
    speedup: float | None = None  # of an option against the reference run of its case
    max_error: float | None = None
    error_of: str | None = None  # what the error is of, and over which part
    latent_psnr: float | None = None  # dB, against the float32 reference run; infinite is given as 999
    log_mel_distance: float | None = None  # dB, root mean square over bands and times
    peak_bytes: int | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.case, self.subject


@dataclass(frozen=True)
class NotRun:
    """What was asked for, or would have been compared, and the reason why it was not."""

    case: str
    subject: str
    reason: str


@dataclass(frozen=True)
class Change:
    """The median of one row then and now, in seconds."""

    case: str
    subject: str
    before: float
    now: float

    @property
    def share(self) -> float:
        """0.05 is five percent slower."""
        return self.now / self.before - 1


@dataclass
class Document:
    command: str
    environment: Mapping[str, Any]
    settings: Mapping[str, Any]
    roofs: list[Mapping[str, Any]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    not_run: list[NotRun] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)  # against --baseline

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        told = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        told["rows"] = [dataclasses.asdict(row) for row in self.rows]
        told["not_run"] = [dataclasses.asdict(item) for item in self.not_run]
        told["changes"] = [dataclasses.asdict(change) for change in self.changes]
        return {"schema": SCHEMA, "version": VERSION, **told}

    @classmethod
    def from_dict(cls, values: Any) -> Document:
        """Strictly: every key must be known and of its type. ValueError naming the path of what is not."""
        if not isinstance(values, Mapping) or values.get("schema") != SCHEMA:
            raise ValueError(f"it is no document of {SCHEMA}")
        if values.get("version") != VERSION:
            raise ValueError(f"its schema has version {values.get('version')!r}, this sky4 reads {VERSION}")
        body = {key: value for key, value in values.items() if key not in ("schema", "version")}
        document = config_from_dict(cls, body, "document")
        if document.command not in COMMANDS:
            raise ValueError(f"document.command must be one of {', '.join(COMMANDS)}, got {document.command!r}")
        check_rows(document.rows)
        return document


def check_rows(rows: list[Row]) -> None:
    """ValueError where a row cannot be true or stands twice."""
    seen: set[tuple[str, str]] = set()
    for row in rows:
        name = f"the row {row.case!r} of {row.subject!r}"
        timing = row.timing
        if row.key in seen:
            raise ValueError(f"{name} stands twice")
        seen.add(row.key)
        if not (timing.n >= 1 and 0 < timing.p10 <= timing.median <= timing.p90 < math.inf):
            raise ValueError(f"{name} has no times in order: {timing}")
        numbers = [value for value in dataclasses.asdict(row).values() if isinstance(value, int | float)]
        if any(number != number or number < 0 or number == math.inf for number in numbers):
            raise ValueError(f"{name} holds a number that is negative or not finite")


def read_document(path: Path, flag: str = "--baseline") -> Document:
    """A document that `--out` or `--json` wrote. RequestError where it cannot be used."""
    try:
        return Document.from_dict(json.loads(path.read_text("utf-8")))
    except OSError as error:
        raise RequestError(f"{flag} {path} cannot be read: {error.strerror}; give a file that --out wrote") from error
    except ValueError as error:
        raise RequestError(f"{flag} {path} cannot be used: {error}; measure a new one with --out") from error


def check_comparable(environment: Mapping[str, Any], command: str, baseline: Document, path: Path) -> None:
    """RequestError where the baseline comes from another command, machine or dtype."""
    if baseline.command != command:
        raise RequestError(f"--baseline {path} is of sky4 bench {baseline.command}; compare with one of {command}")
    for key in (*DEVICE_KEYS, "dtype"):
        if baseline.environment.get(key) != environment.get(key):
            raise RequestError(
                f"--baseline {path} was measured with {key} {baseline.environment.get(key)}, this run has "
                f"{environment.get(key)}; compare only what one device measured"
            )


def compare(rows: Sequence[Row], baseline: Document) -> list[Change]:
    """Each of our rows that both hold. Opponents are not ours to keep quick."""
    before = {row.key: row.timing.median for row in baseline.rows if row.ours}
    return [
        Change(row.case, row.subject, before[row.key], row.timing.median)
        for row in rows
        if row.ours and row.key in before
    ]


def parse_percent(text: str) -> float:
    """'5%' to 0.05. RequestError for anything else."""
    number, sign, rest = text.partition("%")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not sign or rest or not 0 <= value <= 1000:
        raise RequestError(f"--fail-over {text}: expected a percentage such as 5%")
    return value / 100
