"""`sky4 bench` through the command line: tables, JSON, comparison, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sky4.bench.record import Document
from sky4cli.main import main

SMALL = ["kernels", "--shape", "2x40+7x32", "--kernel", "joint_attention", "--budget", "1", "--quiet"]
Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call `sky4 bench` in a folder of its own; returns what it printed on stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: str, code: int = 0) -> tuple[str, str]:
        found = main(["bench", *argv])
        shown = capsys.readouterr()
        assert found == code, shown.err
        return shown.out, shown.err

    return call


def test_the_table_is_readable_in_a_hundred_columns_without_colour(run: Run) -> None:
    out, _ = run(*SMALL)
    assert "joint_attention 2x40+7x32" in out
    assert "torch SDPA flash" in out
    assert "x ours" in out
    assert "not run: flash_attn, joint_attention 2x40+7x32: " in out
    assert "\x1b" not in out
    table = [line for line in out.splitlines() if not line.startswith("not run")]
    assert max(map(len, table)) <= 100


def test_json_is_one_document_of_the_schema(run: Run) -> None:
    out, err = run(*SMALL, "--json")
    assert out.count("\n") == 1
    document = Document.from_dict(json.loads(out))
    assert document.command == "kernels"
    assert document.settings["shapes"] == ["2x40+7x32"]
    assert document.environment["torch"] == torch.__version__
    assert err == ""


def test_out_is_the_same_document_and_is_not_replaced_unasked(run: Run) -> None:
    out, _ = run(*SMALL, "--json", "--out", "a.json")
    assert json.loads(Path("a.json").read_text("utf-8")) == json.loads(out)
    _, err = run(*SMALL, "--out", "a.json", code=2)
    assert "--out a.json exists already; choose another name or --force" in err
    run(*SMALL, "--out", "a.json", "--force")


def test_a_slower_row_fails_the_run_and_every_change_is_shown(run: Run) -> None:
    run(*SMALL, "--out", "old.json")
    values = json.loads(Path("old.json").read_text("utf-8"))
    for row in values["rows"]:
        row["timing"] = {**row["timing"], "p10": 1e-12, "median": 1e-12, "p90": 1e-12}
    Path("old.json").write_text(json.dumps(values))
    out, err = run(*SMALL, "--baseline", "old.json", "--fail-over", "5%", code=1)
    assert "against the baseline" in out
    assert "1 of 1 rows are slower than --fail-over 5% allows; most of all joint_attention 2x40+7x32, by" in err
    out, _ = run(*SMALL, "--baseline", "old.json", "--json")
    (change,) = json.loads(out)["changes"]
    assert change["before"] == 1e-12


def test_a_trace_and_a_plot_are_written(run: Run) -> None:
    run(*SMALL, "--profile", "trace.json", "--plot", "roofline.svg")
    names = {event.get("name") for event in json.loads(Path("trace.json").read_text("utf-8"))["traceEvents"]}
    assert {"joint_attention 2x40+7x32: sky4", "joint_attention 2x40+7x32: torch SDPA flash"} <= names
    assert Path("roofline.svg").read_text("utf-8").startswith("<svg")


def test_stages_of_a_model(run: Run, nano_model: Path) -> None:
    out, _ = run("stages", "--model", str(nano_model), "--budget", "2", "--quiet", "--json")
    document = Document.from_dict(json.loads(out))
    measured = [row.case.removesuffix(" nano, 32x32, 9 frames") for row in document.rows]
    assert measured == ["text", "base step", "decode video", "decode audio"]
    assert all(row.flop for row in document.rows)
    assert [item.reason for item in document.not_run] == ["this model has no refiner"]


def test_whole_generations_beside_another_backend(run: Run, nano_model: Path) -> None:
    argv = ["e2e", "--model", str(nano_model), "--rounds", "2", "--against", "reference", "--quiet"]
    out, _ = run(*argv, "--attention-backend", "torch", "--json")
    document = Document.from_dict(json.loads(out))
    whole = [row for row in document.rows if row.share_of_total == 1]
    assert [row.subject for row in whole] == ["sky4", "backend reference"]
    assert all(row.timing.n == 2 and row.peak_bytes and row.times_ours for row in whole)
    stages = [row for row in document.rows if row.subject.startswith("sky4: ")]
    names = {row.subject.partition(": ")[2] for row in stages}
    assert names >= {"reading the prompt", "sampling", "decoding the sound"}
    assert sum(row.timing.median for row in stages) == pytest.approx(whole[0].timing.median, rel=0.5)


def test_every_speed_option_has_its_error_beside_its_speed_up(run: Run, nano_model: Path) -> None:
    out, _ = run("quality", "--model", str(nano_model), "--quiet", "--json")
    document = Document.from_dict(json.loads(out))
    rows = {row.subject: row for row in document.rows}
    reference = rows["float32, backend reference"]
    assert (reference.speedup, reference.latent_psnr, reference.log_mel_distance) == (1.0, 999.0, 0.0)
    assert all(None not in (row.speedup, row.latent_psnr, row.log_mel_distance) for row in rows.values())
    assert rows["float32, backend torch"].latent_psnr > rows["bfloat16, backend torch"].latent_psnr > 10
    assert {"float32, 1 euler steps", "float32, 1 unipc steps"} <= rows.keys()
    assert [item.subject for item in document.not_run] == ["Video Sparse Attention"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["kernels", "--shape", "huge"], "--shape huge is neither a name nor a shape"),
        (["kernels", "--kernel", "fft"], "--kernel fft is unknown"),
        (["kernels", "--shape", "2x40x32", "--kernel", "select_cubes"], "none of the shapes has such a case"),
        (["kernels", "--fail-over", "5"], "--fail-over 5: expected a percentage"),
        (["kernels", "--fail-over", "5%"], "compares with a --baseline; add it"),
        (["kernels", "--baseline", "none.json"], "--baseline none.json cannot be read"),
        (["kernels", "--plot", "a.pdf"], "--plot a.pdf: the suffix must be .png or .svg"),
        (["kernels", "--out", "no/such/a.json"], "--out no/such/a.json: there is no folder no/such"),
        (["kernels", "--budget", "0"], "--budget 0 is outside 1 to 86400 seconds"),
        (["kernels", "--threads", "0"], "--threads 0 is outside 1 to 4096"),
        (["kernels", "--seed", "-1"], "--seed -1 is outside 0"),
        (["kernels", "--device", "tpu"], "--device tpu is unknown"),
        (["kernels", "--dtype", "int8"], "--dtype int8 is for making clips"),
        (["kernels", "--attention-backend", "magic"], "--attention-backend magic is not available: choose one of"),
        (["e2e", "--against", "magic"], "--against magic is not available: choose one of"),
        (["e2e", "--rounds", "0"], "--rounds 0 is outside 1 to 1000"),
        (["stages", "--size", "63x64"], "nearest"),
        (["quality", "--model", "nowhere"], "--model nowhere is no folder"),
        (["tower", "--dtype", "float16", "--device", "cpu"], "float16 is for CUDA devices"),
    ],
)
def test_bad_requests_are_refused_in_a_sentence(run: Run, argv: list[str], says: str) -> None:
    out, err = run(*argv, "--quiet", code=2)
    assert says in err
    assert (out, err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 9}, "its schema has version 9"),
        ({"environment": {"device": "another"}}, "was measured with device another"),
        ({"command": "e2e"}, "is of sky4 bench e2e"),
    ],
)
def test_a_baseline_of_another_kind_is_refused_before_anything_is_measured(
    run: Run, change: dict[str, object], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(*SMALL, "--out", "old.json")
    Path("old.json").write_text(json.dumps(json.loads(Path("old.json").read_text("utf-8")) | change))
    monkeypatch.setattr("sky4.bench.cases.run_cases", lambda *_: pytest.fail("it was measured"))
    _, err = run(*SMALL, "--baseline", "old.json", code=2)
    assert says in err


def test_ptxas_shows_the_builds_log(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sky4.bench.ptxas.CHECKOUT", tmp_path)
    _, err = run("kernels", "--ptxas", code=2)
    assert "--ptxas: there is no" in err
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "ptxas.log").write_text(
        "ptxas info    : Compiling entry function 'forward' for 'sm_90a'\n"
        "ptxas info    : Function properties for forward\n"
        "    0 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads\n"
        "ptxas info    : Used 168 registers, 1024 bytes smem\n"
    )
    out, _ = run("kernels", "--ptxas")
    assert "forward" in out and "168" in out and "4/8" in out
    out, _ = run("kernels", "--ptxas", "--json")
    assert json.loads(out)[0]["spill_stores"] == 4
