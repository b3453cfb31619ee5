"""Events: lines that their schema allows, whole whatever happens, and EVENTS.md says the same as the code."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path

import pytest

from sky4.errors import Interrupted, RequestError, Sky4Failure
from sky4.pipeline import events
from sky4.pipeline.events import COMMON, FIELDS, EventLog, open_events, read_event

SCHEMA = Path(events.__file__).with_name("EVENTS.md")


def told(log: io.StringIO) -> list[dict]:
    return [read_event(line) for line in log.getvalue().splitlines()]


class Kept(io.StringIO):
    """Still readable after the log has closed it."""

    def close(self) -> None:
        pass


def test_the_document_names_every_event_and_field() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", SCHEMA.read_text("utf-8"), re.MULTILINE)
    assert {name: re.findall(r"`(\w+)`", fields) for name, fields in rows} == {
        name: list(fields) for name, fields in FIELDS.items()
    }
    assert all(f"`{name}`" in SCHEMA.read_text("utf-8") for name in COMMON)
    assert f"`{events.VERSION}`" in SCHEMA.read_text("utf-8")


def test_a_run_is_told_in_lines_of_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr(events.time, "monotonic", lambda: now[0])
    stream = Kept()
    with EventLog(stream, "generate") as log:
        for done in range(3):
            log.stage("sampling", done + 5, 7)  # a run that goes on from its fifth step
            now[0] += 2.0
        log.warning("a note")
        log.artifact("clip", Path("clip.mp4"), {"frames": 9})
    lines = told(stream)
    assert [line["event"] for line in lines] == [
        *("start", "stage", "step", "step", "step", "warning", "artifact", "memory", "end"),
    ]
    assert [(line["done"], line["seconds"], line["eta"]) for line in lines[2:5]] == [
        *((5, 0.0, None), (6, 2.0, 2.0), (7, 4.0, 0.0)),
    ]
    assert lines[-2]["peak_bytes"] > 0
    assert (lines[-1]["ok"], lines[-1]["code"], lines[-1]["error"]) == (True, 0, None)


@pytest.mark.parametrize(
    ("error", "code"),
    [(RequestError("no"), 2), (Sky4Failure("no"), 1), (Interrupted("no"), 130), (KeyboardInterrupt("no"), 130)],
)
def test_the_last_line_tells_what_failed(error: BaseException, code: int) -> None:
    stream = Kept()
    with pytest.raises(type(error)), EventLog(stream, "generate"):
        raise error
    assert (told(stream)[-1]["ok"], told(stream)[-1]["code"], told(stream)[-1]["error"]) == (False, code, "no")


def test_each_line_is_flushed_and_a_reader_that_goes_away_does_not_end_the_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reading, writing = os.pipe()
    with EventLog(os.fdopen(writing, "w"), "generate") as log:
        assert read_event(os.read(reading, 4096).decode())["event"] == "start"
        os.close(reading)
        for done in range(3):
            log.stage("sampling", done, 2)
    assert [message for message in caplog.messages if "--events" in message] == [
        "--events: no more can be written (Broken pipe); the run goes on without"
    ]


def test_a_log_is_added_to_and_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for _ in range(2):
        with EventLog(open_events(str(path)), "generate"):
            pass
        path.write_text(path.read_text() + '{"event":"ste')  # killed in a line
    whole = [line for line in path.read_text().splitlines() if not line.endswith('"ste')]
    assert [read_event(line)["event"] for line in whole] == ["start", "end"] * 2
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff" * 9)
    for other in ("photo.jpg", "list.jsonl"):
        if not (tmp_path / other).exists():
            (tmp_path / other).write_text('{"name": "a"}\n')
        with pytest.raises(RequestError, match="is no log of sky4, so nothing is added"):
            open_events(str(tmp_path / other))


def test_descriptors_are_taken_from_3_up_and_open_ones_alone(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        with EventLog(open_events(f"fd:{file.fileno()}"), "generate"):
            pass
        os.fstat(file.fileno())  # its own is still open
    assert len((tmp_path / "log").read_text().splitlines()) == 2
    for bad in ("fd:1", "fd:2", "fd:x", "fd:", "fd:-3"):
        with pytest.raises(RequestError, match="from 3 up"):
            open_events(bad)
    with pytest.raises(RequestError, match="fd:973 is not open for writing"):
        open_events("fd:973")
    with (tmp_path / "log").open() as file, pytest.raises(RequestError, match="is not open for writing"):
        open_events(f"fd:{file.fileno()}")
    with pytest.raises(RequestError, match="cannot be written"):
        open_events(str(tmp_path / "nowhere" / "log"))


@pytest.mark.parametrize(
    "change",
    [{"event": "smell"}, {"time": "now"}, {"pid": True}, {"pid": None}, {"more": 1}, {"version": 2}, {"sky4": 1}],
)
def test_what_is_not_of_the_schema_is_refused(change: dict) -> None:
    stream = Kept()
    EventLog(stream, "generate")
    values = json.loads(stream.getvalue())
    assert read_event(json.dumps(values)) == values
    with pytest.raises(ValueError):
        read_event(json.dumps({**values, **change}))
