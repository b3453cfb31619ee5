"""scripts/test_native finds a wrong result, a sanitizer's report, a program that hangs, and that there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scripts.checks import test_native as native
from scripts.checks.test_native import Run, run_one, runs_of


def program(folder: Path, name: str, script: str) -> Path:
    path = folder / "address" / "tests" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    path.chmod(0o755)
    return path


def fault(folder: Path, script: str, level: str | None = None) -> str | None:
    return run_one(Run(program(folder, "a", script), level), os.environ)


def test_a_program_that_exits_with_0_passes(tmp_path: Path) -> None:
    assert fault(tmp_path, "echo fine") is None


def test_a_wrong_result_fails_and_is_shown(tmp_path: Path) -> None:
    assert "row 3 is off" in (fault(tmp_path, "echo row 3 is off; exit 1") or "")


@pytest.mark.parametrize(
    "report",
    [
        "==1==ERROR: AddressSanitizer: heap-buffer-overflow",
        "a.cpp:3: runtime error: shift",
        "WARNING: ThreadSanitizer: data race",
    ],
)
def test_a_report_fails_even_where_the_program_goes_on(tmp_path: Path, report: str) -> None:
    assert report in (fault(tmp_path, f"echo '{report}' >&2; exit 0") or "")


def test_a_program_that_hangs_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "LIMIT", 0.3)
    assert "did not end" in (fault(tmp_path, "exec sleep 20") or "")


def test_the_level_reaches_the_program(tmp_path: Path) -> None:
    assert fault(tmp_path, '[ "$SKY4_ISA" = avx2 ]', "avx2") is None
    assert fault(tmp_path, '[ "$SKY4_ISA" = avx2 ]', "portable") is not None


def test_the_returned_stack_is_watched_where_the_compiler_lays_it_out_rightly(tmp_path: Path) -> None:
    watched = 'case "$ASAN_OPTIONS" in *use_after_return=1*) exit 0;; esac; exit 1'
    assert fault(tmp_path, watched, "avx2") is None
    assert fault(tmp_path, watched) is None
    assert fault(tmp_path, watched, "avx512") is not None
    assert fault(tmp_path, 'case "$ASAN_OPTIONS" in *detect_leaks=1*) exit 0;; esac; exit 1', "avx512") is None


def test_cpu_programs_run_at_every_level_and_the_others_once(tmp_path: Path) -> None:
    folder = program(tmp_path, "cpu_kernels", "true").parent
    program(tmp_path, "schedules", "true")
    runs = [(run.program.name, run.level) for run in runs_of(folder, ["portable", "avx2"])]
    assert runs == [("cpu_kernels", "portable"), ("cpu_kernels", "avx2"), ("schedules", None)]


def test_nothing_to_run_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "build", lambda sanitizer: tmp_path)
    monkeypatch.setattr(native, "levels_here", lambda: ["portable"])
    assert native.main() == 1
