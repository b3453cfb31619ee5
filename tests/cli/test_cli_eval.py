"""`sky4 eval world` through its own command line, on a nano model of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from sky4.errors import RequestError
from sky4cli.eval import eval_app

SMALL = ["--size", "32x32", "--frames", "9", "--quiet"]


@pytest.fixture
def run(nano_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Call `eval world` in a folder of its own; returns what it printed. Errors are raised as they are."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: str) -> str:
        eval_app(["world", *SMALL, "--model", str(nano_model), *argv], standalone_mode=False)
        return capsys.readouterr().out

    return call


def test_a_model_is_measured_and_table_json_and_sheet_are_written(run) -> None:
    out = run("-n", "2", "--first-frames", "2", "--steps", "1", "--save-clips", "--out", "run")
    for words in ("colour", "sound class", "median |offset|", "pan against x: correlation", "first frame kept (PSNR)"):
        assert words in out
    results = json.loads(Path("run/results.json").read_text("utf-8"))
    assert results["measured"] == "model"
    assert results["steps"] == 1
    assert len(results["clips"]) == 2
    measures = {line["name"]: line for line in results["measures"]}
    assert measures["colour"]["chance"] == 0.1
    assert measures["first frame kept (PSNR)"]["value"] > 40  # kept exactly, whatever the weights are
    assert Image.open("run/contact_sheet.png").height == 2 * 79
    assert sorted(path.name for path in Path("run/clips").iterdir()) == ["000.mp4", "001.mp4"]
    assert sorted(path.name for path in Path("run").iterdir()) == ["clips", "contact_sheet.png", "results.json"]


def test_renders_reach_the_ceiling_and_json_is_one_line(run) -> None:
    out = run("--ceiling", "--frames", "41", "--size", "64x64", "-n", "4", "--json")
    assert out.count("\n") == 1
    told = json.loads(out)
    measures = {line["name"]: line for line in told["measures"]}
    for name in ("colour", "shape", "direction", "sound class"):
        assert measures[name]["value"] == measures[name]["ceiling"] == 1.0
    assert "clips" not in told
    assert Path(told["results"]).is_file()


def test_codecs_are_measured_against_renders(run) -> None:
    out = run("--codec", "-n", "1", "--out", "codec")
    assert "picture against render (PSNR)" in out
    assert "sound against render (SNR)" in out


def test_tasks_are_judged_through_files_and_one_request(run) -> None:
    tasks = ["inpaint_subject", "extend_backward", "image_audio", "effect"]
    chosen = [word for task in tasks for word in ("--task", task)]
    out = run("--suite", "tasks", "--cases", "1", "--steps", "1", "--frames", "17", "--out", "tasks", *chosen)
    assert all(task in out for task in tasks)
    results = json.loads(Path("tasks/results.json").read_text("utf-8"))
    assert {line["name"] for line in results["tasks"]} == set(tasks)
    assert {line["name"] for line in results["rows"]} >= {"region inpainting", "extension"}
    assert all(0 < line["chance"] < 0.5 and line["count"] == 1 for line in results["tasks"])
    assert Image.open("tasks/contact_sheet.png").height == len(tasks) * 70


def test_results_are_not_overwritten_without_force(run) -> None:
    run("--ceiling", "-n", "1", "--out", "twice")
    before = Path("twice/results.json").read_bytes()
    with pytest.raises(RequestError, match=r"holds results.json already; .* or --force"):
        run("--ceiling", "-n", "2", "--out", "twice")
    assert Path("twice/results.json").read_bytes() == before
    run("--ceiling", "-n", "2", "--out", "twice", "--force")
    assert Path("twice/results.json").read_bytes() != before


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--ceiling", "--codec"], "run them one after the other"),
        (["-n", "0"], "--count 0 is outside 1 to 100000"),
        (["--first-frames", "99", "-n", "3"], "--first-frames 99 is outside 0 to the --count of 3"),
        (["--size", "64x32"], "--size 64x32: the world is square"),
        (["--size", "36x36"], "nearest"),
        (["--save-clips", "--codec"], "drop --codec"),
        (["--steps", "0"], "--steps"),
        (["--cases", "2"], "--cases does not belong to --suite prompts"),
        (["--suite", "tasks", "-n", "2"], "--count does not belong to --suite tasks"),
        (["--suite", "tasks", "--cases", "0"], "--cases 0 is outside 1 to 10000"),
        (["--suite", "tasks", "--task", "dance"], "--task dance is unknown; choose of image_audio"),
    ],
)
def test_bad_requests_are_refused_in_a_sentence(run, argv: list[str], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        run(*argv)


def test_a_file_in_the_way_is_named(run, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(RequestError, match="taken is a file; name a folder"):
        run("--ceiling", "-n", "1", "--out", "taken")
    assert (tmp_path / "taken").read_text() == "mine"
