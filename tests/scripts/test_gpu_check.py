"""scripts/gpu_check: no step loses another, time is kept, a machine without a GPU is told what is missing."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from scripts.checks import gpu_check
from scripts.checks.gpu_check import Machine, Summary, record, steps_of
from scripts.checks.steps import Report, Step, run_steps

ROOT = gpu_check.ROOT


def shell(name: str, script: str, limit: float = 20.0, **more: object) -> Step:
    return Step(name, ["sh", "-c", script], "log", limit, **more)  # type: ignore[arg-type]


def run(steps: list[Step], folder: Path, budget: float = 60.0) -> dict[str, str]:
    report = Report()
    run_steps(steps, folder, budget, report)
    return {verdict.name: verdict.said for verdict in report.verdicts}


def test_a_failing_step_does_not_stop_the_next(tmp_path: Path) -> None:
    steps = [shell("a", "echo one; exit 3"), Step("b", ["/no/such/program"], "log", 5), shell("c", "echo three")]
    said = run(steps, tmp_path)
    assert (said["a"], said["c"]) == ("exit code 3", "ok")
    assert said["b"].startswith("does not start")
    log = (tmp_path / "log").read_text("utf-8")
    assert "one\n" in log and "three\n" in log and "==== a: exit code 3" in log


def test_a_step_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    hang = f"sleep 30 & echo $! >{tmp_path / 'child'}; echo before; wait"
    said = run([shell("hang", hang, limit=1.0), shell("next", "true")], tmp_path)
    assert said == {"hang": "stopped after 1 s", "next": "ok"}
    assert "before" in (tmp_path / "log").read_text("utf-8")
    child = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    assert not child.exists() or child.read_text().split()[2] == "Z"


def test_steps_of_a_group_run_side_by_side_and_keep_their_logs_apart(tmp_path: Path) -> None:
    # Each waits for the other's mark: one after the other, the first would wait for ever.
    steps = [
        shell(one, f"echo {one}; touch {one}; until [ -e {two} ]; do sleep 0.05; done", group="together")
        for one, two in (("a", "b"), ("b", "a"))
    ]
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        assert run(steps, tmp_path) == {"a": "ok", "b": "ok"}
    finally:
        os.chdir(before)
    assert (tmp_path / "log").read_text("utf-8").index("==== a: ok") < (tmp_path / "log").read_text("utf-8").index(
        "==== b:"
    )


def test_a_step_leaves_the_time_that_a_later_one_reserves(tmp_path: Path) -> None:
    steps = [shell("long", "sleep 30"), shell("last", "true", reserve=4.0)]
    said = run(steps, tmp_path, budget=5.5)
    assert said["long"].startswith("stopped") and said["last"] == "ok"


def test_without_time_left_a_step_is_not_run_and_not_green(tmp_path: Path) -> None:
    said = run([shell("first", "true"), shell("none", "touch ran")], tmp_path, budget=0.5)
    assert said["none"] == "not run: no time was left" and not (tmp_path / "ran").exists()


def test_a_long_log_keeps_its_end(tmp_path: Path) -> None:
    run([shell("a", "head -c 6000000 /dev/zero | tr '\\0' x; echo; echo the end")], tmp_path)
    log = (tmp_path / "log").read_bytes()
    assert len(log) < 5_000_000 and b"the end" in log and b"the beginning is cut" in log


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    told = {"device": "NVIDIA H200", "capability": [9, 0], "torch": "2.11.0"}
    found = Machine(told=told, sanitizer="/cuda/bin/compute-sanitizer")
    monkeypatch.setattr(gpu_check, "look", lambda python, environment: found)
    monkeypatch.setattr(gpu_check, "commit", lambda: "0123456789abcdef")
    for name in ("PATH", "PYTHONPATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setenv("SKY4_CUDA_ARCHS", "90a")
    monkeypatch.delenv("SKY4_WHEELS", raising=False)
    monkeypatch.chdir(ROOT)
    return found


def fake_steps(monkeypatch: pytest.MonkeyPatch, *steps: Step) -> None:
    monkeypatch.setattr(gpu_check, "steps_of", lambda python, machine, folder, scratch: list(steps))


def test_all_green_is_exit_0_and_the_summary_tells_it(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_steps(monkeypatch, shell("build", "true"), shell("tests", "echo 3 passed"))
    assert gpu_check.main([str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    assert (summary["device"], summary["commit"], summary["archs"]) == ("NVIDIA H200", "0123456789abcdef", "90a")
    assert [(step["name"], step["exit_code"], step["said"]) for step in summary["steps"]] == [
        ("build", 0, "ok"),
        ("tests", 0, "ok"),
    ]
    assert all(path.is_file() and not path.name.startswith(".") for path in (tmp_path / "out").iterdir())


def test_one_failed_step_is_exit_1(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_steps(monkeypatch, shell("build", "true"), shell("tests", "exit 1"), shell("bench", "true"))
    assert gpu_check.main([str(tmp_path / "out")]) == 1
    assert "failed: tests;" in capsys.readouterr().out


def test_a_folder_with_something_in_it_is_not_written_into(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "bench.json").touch()
    assert gpu_check.main([str(tmp_path)]) == 2


def test_the_steps_are_build_tests_every_sanitizer_and_the_benchmark(machine: Machine, tmp_path: Path) -> None:
    steps = {step.name: step for step in steps_of("python3", machine, tmp_path, tmp_path)}
    order = ["build", "build-cases", "cases", "tests", "memcheck", "racecheck", "synccheck", "initcheck", "bench"]
    assert list(steps) == order
    assert steps["tests"].command[-1] == "tests/gpu"
    for tool in gpu_check.SANITIZERS:
        command = " ".join(steps[tool].command)
        assert command.startswith(f"/cuda/bin/compute-sanitizer --tool {tool} --error-exitcode 98 ")
    assert str(tmp_path / "bench.json") in steps["bench"].command
    # At most eight files of a results folder come back from a lent machine.
    assert len({step.log for step in steps.values()} | {"summary.json", "bench.json", "ptxas.log"}) <= 8
    # The steps before the benchmark cannot take its time.
    assert gpu_check.BUDGET < 540 and steps["bench"].reserve >= 60


def test_a_machine_without_a_gpu_is_told_so(tmp_path: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    (empty / "nvidia-smi").write_text("#!/bin/sh\necho 'No devices were found' >&2; exit 6\n", "utf-8")
    (empty / "nvidia-smi").chmod(0o755)
    environment = {**os.environ, "PATH": f"{empty}:{os.environ['PATH']}"}
    command = [str(ROOT / "scripts" / "gpu_check"), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "no GPU: nvidia-smi" in done.stderr
    assert not list((tmp_path / "out").iterdir())


def test_wheels_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "holds no .whl file" in (gpu_check.install_wheels("python3", tmp_path, tmp_path / "site") or "")


def test_a_recorded_run_is_one_row_and_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records, results = tmp_path / "benchmarks", tmp_path / "results"
    records.mkdir()
    results.mkdir()
    (records / "README.md").write_text("| day |\n", "utf-8")
    (results / "bench.json").write_text("{}", "utf-8")
    (results / "build.log").write_text("long", "utf-8")
    told = {"device": "NVIDIA H200", "commit": "0123456789abcdef", "date": "2026-11-21T13:00:00", "command": "x"}
    summary = Summary(results / "summary.json", told)
    run_steps([shell("bench", "exit 1")], results, 60.0, summary)
    monkeypatch.setattr(gpu_check, "RECORDS", records)
    assert record(results) == 0
    kept = records / "2026-11-21-nvidia-h200-0123456789"
    assert sorted(path.name for path in kept.iterdir()) == ["bench.json", "summary.json"]
    row = (records / "README.md").read_text("utf-8").splitlines()[-1]
    assert "NVIDIA H200" in row and "`0123456789`" in row and "failed: bench" in row
    assert record(results) == 2  # no run is recorded over another
    assert record(tmp_path) == 2


def test_the_table_of_records_is_the_last_thing_in_its_file() -> None:
    last = (ROOT / "benchmarks" / "README.md").read_text("utf-8").splitlines()[-1]
    assert last.startswith("|")
