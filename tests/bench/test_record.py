"""The document: there and back, strict, and compared with an earlier one."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from sky4.bench.record import (
    Document,
    NotRun,
    Row,
    check_comparable,
    compare,
    parse_percent,
    read_document,
)
from sky4.bench.timing import Timing
from sky4.errors import RequestError

ENVIRONMENT = {"device": "CPU", "cores": 2, "threads": 2, "isa": "avx2", "dtype": "float32"}
SCHEMA = Path(__file__).resolve().parents[2] / "python_model" / "sky4" / "bench" / "SCHEMA.md"


def row(case: str = "attention nano", subject: str = "sky4", seconds: float = 1.0, **changes: object) -> Row:
    timing = Timing(2, 3, seconds, seconds, seconds)
    return replace(Row(case, subject, subject == "sky4", timing), **changes)


def document(*rows: Row) -> Document:
    missing = [NotRun("attention nano", "flash_attn", "it is for CUDA devices")]
    return Document("kernels", ENVIRONMENT, {"backward": False}, [], list(rows), missing)


def test_a_document_comes_back_equal_from_json() -> None:
    one = document(row(flop=10, max_error=1e-3), row(subject="torch SDPA math", seconds=2.0))
    assert Document.from_dict(json.loads(json.dumps(one.to_dict()))) == one


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "version 2, this sky4 reads 1"),
        ({"schema": "other"}, "no document of sky4-bench"),
        ({"command": "dance"}, "document.command must be one of"),
        ({"extra": 1}, "unknown setting document.extra"),
        ({"rows": [{"case": "a"}]}, "missing setting document.rows"),
    ],
)
def test_what_does_not_fit_the_schema_is_named(change: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Document.from_dict(document(row()).to_dict() | change)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([row(), row()], "stands twice"),
        ([row(seconds=0.0)], "no times in order"),
        ([row(flop_per_second=float("nan"))], "not finite"),
        ([row(share_of_copy=-1.0)], "negative"),
    ],
)
def test_rows_that_cannot_be_true_are_refused(rows: list[Row], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Document.from_dict(document(*rows).to_dict())


def test_the_schema_document_names_every_field() -> None:
    text = SCHEMA.read_text("utf-8")
    for kind in (Document, Row, NotRun, Timing):
        missing = [field.name for field in fields(kind) if f"`{field.name}`" not in text]
        assert not missing, f"{kind.__name__}: describe {missing} in SCHEMA.md"


def test_our_rows_are_compared_and_opponents_are_not() -> None:
    before = document(row(seconds=1.0), row("attention tiny"), row(subject="torch SDPA math"))
    now = [row(seconds=1.1), row("attention huge"), row(subject="torch SDPA math", seconds=9.0)]
    (change,) = compare(now, before)
    assert (change.case, change.before, change.now) == ("attention nano", 1.0, 1.1)
    assert change.share == pytest.approx(0.1)


@pytest.mark.parametrize("key", ENVIRONMENT)
def test_another_machine_is_not_compared(key: str) -> None:
    with pytest.raises(RequestError, match=f"was measured with {key} "):
        check_comparable(ENVIRONMENT | {key: "else"}, "kernels", document(), Path("old.json"))


def test_another_command_is_not_compared() -> None:
    with pytest.raises(RequestError, match="is of sky4 bench kernels; compare with one of e2e"):
        check_comparable(ENVIRONMENT, "e2e", document(), Path("old.json"))


def test_a_baseline_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be read: No such file"):
        read_document(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(RequestError, match="cannot be used"):
        read_document(tmp_path / "bad.json")


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0%", 0.0), ("12.5%", 0.125)])
def test_percentages(text: str, share: float) -> None:
    assert parse_percent(text) == share


@pytest.mark.parametrize("text", ["5", "%", "five%", "-1%", "5%5", "nan%"])
def test_what_is_no_percentage_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="expected a percentage such as 5%"):
        parse_percent(text)
