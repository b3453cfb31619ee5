"""What the reporter prints where there is no terminal."""

from __future__ import annotations

import logging

import pytest

from sky4cli import console
from sky4cli.console import Reporter


def test_plain_progress_names_each_stage_once_and_tells_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with Reporter(quiet=False, as_json=False) as reporter:
        for step in range(5):
            reporter.stage("sampling", step, 4)
            now[0] += 6.0  # lines come ten seconds apart at the least
        reporter.stage("decoding", 0, 9)
        reporter.result("clip.mp4")
    shown = capsys.readouterr()
    assert shown.err.splitlines() == ["sampling", "sampling 2/4, 12 s left", "decoding"]
    assert shown.out == "clip.mp4\n"


def test_with_json_only_the_record_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(quiet=True, as_json=True) as reporter:
        reporter.stage("sampling", 0, 4)
        reporter.note("a note")
        reporter.result("clip.mp4")
        reporter.record({"clips": []})
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ('{"clips":[]}\n', "")


def test_what_the_library_chose_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(quiet=False, as_json=False):
        logging.getLogger("sky4").info("attention backend: torch")
    logging.getLogger("sky4").info("nobody listens any more")
    assert capsys.readouterr().err == "attention backend: torch\n"
