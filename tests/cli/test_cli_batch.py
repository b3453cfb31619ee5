"""`sky4 batch` through the command line, on a nano model: rows are the commands' own flags, and the rest goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from PIL import Image

from sky4.batch.manifest import tidy_name
from sky4.errors import RequestError
from sky4.media import read_recipe, write_clip
from sky4.pipeline.events import read_event
from sky4cli.batch_flags import FOLDER_INPUTS, MAKERS, NOT_OF_A_JOB, commands
from sky4cli.main import app, main

Call = Callable[..., tuple[int, str, str]]
DRUM = "a red circle bounces <sfx>a low drum at each bounce</sfx>"


@pytest.fixture
def call(nano_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call a command in a folder of its own, on nano; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> tuple[int, str, str]:
        code = main([*argv, "--model", str(nano_model)])
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        return code, shown.out, shown.err

    return run


def film(path: Path) -> None:
    frames = np.stack([np.full((32, 32, 3), 20 * index, np.uint8) for index in range(9)])
    sound = 0.2 * np.sin(np.arange(round(9 / 16 * 44100)) / 20).astype(np.float32)
    write_clip(path, [frames], np.stack([sound, sound]), fps=Fraction(16), recipe={})


def write_jobs(*jobs: dict[str, Any] | str) -> None:
    lines = [job if isinstance(job, str) else json.dumps(job) for job in jobs]
    Path("jobs.jsonl").write_text("\n".join(lines) + "\n")


def contents(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_every_command_that_makes_clips_is_a_jobs_command_with_all_its_flags() -> None:
    made = {
        name: command
        for name, command in typer.main.get_command(app).commands.items()
        if {"prompt", "steps", "out"} <= {option.name for option in command.params}
    }
    assert set(MAKERS) == set(FOLDER_INPUTS) == set(made)
    for name, command in made.items():
        flags = {tidy_name(word) for option in command.params for word in option.opts}
        assert set(commands()[name]) == flags - {tidy_name(flag) for flag in NOT_OF_A_JOB}


def test_a_job_is_the_clip_that_its_command_makes_of_the_same_flags(call: Call, tmp_path: Path) -> None:
    film(Path("film.mp4"))
    rows: list[dict[str, Any]] = [
        {"command": "generate", "prompt": DRUM, "seed": 3, "fps": "30000/1001", "out": "a.mp4"},
        {"command": "edit", "video": "film.mp4", "prompt": "in rain", "keep-audio": True, "out": "b.mp4"},
        {"command": "inpaint", "video": "film.mp4", "box": "0,0,16,16", "prompt": "a star", "grow": 2, "out": "c.mp4"},
        {"command": "extend", "video": "film.mp4", "seconds": 0.5, "prompt": DRUM, "sound": False, "out": "d.mp4"},
    ]
    write_jobs(*rows)
    code, out, err = call("batch", "jobs.jsonl", "-o", "out", "--json")
    assert code == 0, err
    told = {job["job"]: job for job in json.loads(out)["jobs"]}
    for row in rows:
        argv = [row["video"]] if "video" in row else []
        for name, value in row.items():
            if name not in ("command", "video", "out"):
                flag = f"--{'no-' if value is False else ''}{name}"
                argv += [flag] if isinstance(value, bool) else [flag, str(value)]
        code, out, err = call(row["command"], *argv, "-o", row["out"], "--json")
        assert code == 0, err
        [alone] = json.loads(out)["clips"]
        mine = told[row["out"]]
        for name in ("latents", "seed", "fps", "frames", "width", "height", "prompt"):
            assert mine[name] == alone[name], row
        assert (Path("out") / row["out"]).stat().st_size > 0


def test_broken_rows_are_told_with_their_place_and_the_others_are_made(call: Call, tmp_path: Path) -> None:
    write_jobs(
        {"prompt": DRUM, "out": "a.mp4", "n": 2, "only": "video"},
        '{"prompt": "a", ',
        {"prompt": "beside @image_1"},
        {"prompt": "a", "image": "../../etc/passwd"},
        {"prompt": "a", "size": "33x32"},
        {"prompt": "--force", "out": "-o --force.png"},
        {"prompt": "a", "out": "a.gif"},
        {"command": "extend", "video": "a.mp4", "prompt": "a"},
    )
    code, out, err = call("batch", "jobs.jsonl", "-o", "out", "--quiet")
    assert code == 4
    assert err == ""
    assert "jobs.jsonl:2:17  failed: not JSON" in out
    assert "0003.mp4  failed: " in out
    assert "no reference is named @image_1" in out
    assert "jobs.jsonl:4:1  failed: '../../etc/passwd' leads out of" in out
    assert "0005.mp4  failed: --size 33x32" in out
    assert "a.gif  failed: the output " in out
    assert "0008.mp4  failed: " in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("-o --force.png", "a-1.mp4", "a-2.mp4", "journal.jsonl", ".locks")
    }
    assert read_recipe(tmp_path / "out" / "a-2.mp4")["request"]["seed"] == 1
    assert "made          3" in out
    assert "failed        6" in out


def test_a_chain_of_jobs_runs_in_its_order_and_again_does_nothing(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jobs(
        {"command": "edit", "video": "out/a.mp4", "prompt": "in rain", "out": "b.mp4"},
        {"prompt": DRUM, "out": "a.mp4"},
    )
    code, out, err = call("batch", "jobs.jsonl", "-o", "out")
    assert code == 0, err
    assert out.index("a.mp4") < out.index("b.mp4")
    monkeypatch.setattr("sky4.batch.pool.Worker", lambda: pytest.fail("nothing was to be made"))
    code, out, _ = call("batch", "jobs.jsonl", "-o", "out", "--json")
    assert code == 0
    assert (json.loads(out)["unchanged"], json.loads(out)["made"]) == (2, 0)


def test_the_model_is_loaded_once(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from sky4.pipeline import components

    loaded: list[str] = []

    def counted(name: str, load: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **more: (loaded.append(name), load(*given, **more))[1]

    for name in ("load_transformer", "load_video_codec", "load_text_encoder"):
        monkeypatch.setattr(components, name, counted(name, getattr(components, name)))
    write_jobs(*({"prompt": "a", "seed": seed, "only": "still", "out": f"{seed}.png"} for seed in range(3)))
    code, _, err = call("batch", "jobs.jsonl", "-o", "out")
    assert code == 0, err
    assert sorted(loaded) == ["load_text_encoder", "load_transformer", "load_video_codec"]


def test_a_folder_with_one_template(call: Call, tmp_path: Path) -> None:
    Path("in").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(Path("in") / name)
    film(Path("in/c.mp4"))
    Path("in/notes.txt").touch()
    Path("secret.png").touch()
    Path("in/link.png").symlink_to(tmp_path / "secret.png")
    argv = ("batch", "in", "--command", "edit", "--prompt", "remove the watermark", "-o", "out", "--steps=1")
    code, out, err = call(*argv)
    assert code == 4
    assert "link.png  failed: 'link.png' leads out of" in out
    assert "note: 1 files of 'in' are not taken, such as 'notes.txt'" in err
    found = {
        path.name: read_recipe(path)["request"] for path in Path("out").iterdir() if path.suffix in (".png", ".mp4")
    }
    assert {name: (request["steps"], request["frames"]) for name, request in found.items()} == {
        "a.png": (1, 1),
        "b.png": (1, 1),
        "c.mp4": (1, 9),
    }


def test_a_dry_run_lists_and_writes_nothing(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sky4.batch.pool.Worker", lambda: pytest.fail("nothing was to be made"))
    write_jobs(
        {"prompt": DRUM, "out": "a.mp4"}, {"command": "edit", "video": "out/a.mp4", "prompt": "b", "out": "b.mp4"}
    )
    before = contents(tmp_path)
    code, out, _ = call("batch", "jobs.jsonl", "-o", "out", "--dry-run")
    assert code == 0
    assert "a.mp4  make: new" in out
    assert "b.mp4  make: after 'a.mp4'" in out
    write_jobs({"prompt": DRUM, "out": "a.mp4"}, {"prompt": "@image_1", "out": "b.mp4"})
    code, out, _ = call("batch", "jobs.jsonl", "-o", "out", "--dry-run", "--json")
    assert code == 4
    assert [(job["job"], job["would"]) for job in json.loads(out)["jobs"]] == [("a.mp4", "make"), ("b.mp4", "fail")]
    assert contents(tmp_path) == before


def test_an_unforeseen_error_of_one_job_spares_the_rest(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from sky4.batch import work

    make = work.make_clip

    def faulty(order: Any, *rest: Any) -> dict[str, Any]:
        if order.request.seed == 1:
            raise ZeroDivisionError("a bug")
        return make(order, *rest)

    monkeypatch.setattr(work, "make_clip", faulty)
    write_jobs(*({"prompt": "a", "seed": seed, "only": "video", "out": f"{seed}.mp4"} for seed in range(3)))
    code, out, _ = call("batch", "jobs.jsonl", "-o", "out")
    assert code == 4
    assert "1.mp4  failed: unexpected ZeroDivisionError: a bug" in out
    assert "made          2" in out


def test_an_interrupt_tells_what_was_done_and_exits_130(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from sky4.batch import work

    make = work.make_clip

    def interrupted(order: Any, *rest: Any) -> dict[str, Any]:
        if order.request.seed == 1:
            raise KeyboardInterrupt
        return make(order, *rest)

    monkeypatch.setattr(work, "make_clip", interrupted)
    write_jobs(*({"prompt": "a", "seed": seed, "only": "video", "out": f"{seed}.mp4"} for seed in range(3)))
    code, out, err = call("batch", "jobs.jsonl", "-o", "out", "--json")
    assert code == 130
    assert "interrupted" in err
    assert {job["job"]: job["status"] for job in json.loads(out)["jobs"]} == {
        "0.mp4": "made",
        "1.mp4": "not begun",
        "2.mp4": "not begun",
    }
    monkeypatch.setattr(work, "make_clip", make)
    code, out, _ = call("batch", "jobs.jsonl", "-o", "out", "--json")
    assert (code, json.loads(out)["made"], json.loads(out)["unchanged"]) == (0, 2, 1)


def test_a_shard_is_a_part(call: Call) -> None:
    write_jobs(*({"prompt": "a", "out": f"{number}.mp4"} for number in range(5)))
    listed: list[str] = []
    for part in ("1/2", "2/2"):
        code, out, _ = call("batch", "jobs.jsonl", "-o", "out", "--dry-run", "--json", "--shard", part)
        assert code == 0
        listed += [job["job"] for job in json.loads(out)["jobs"]]
    assert listed == ["0.mp4", "2.mp4", "4.mp4", "1.mp4", "3.mp4"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["jobs.jsonl"], "Missing option"),
        (["gone.jsonl", "-o", "out"], "'gone.jsonl' cannot be read"),
        (["jobs.txt", "-o", "out"], "is no list of jobs"),
        (["jobs.jsonl", "-o", "jobs.jsonl"], "--out jobs.jsonl is a file; name a folder"),
        (["jobs.jsonl", "-o", "out", "--command", "paint"], "--command paint is unknown"),
        (["jobs.jsonl", "-o", "out", "--shard", "3/2"], "--shard 3/2: expected I/N with I from 1 to N"),
        (["jobs.jsonl", "-o", "out", "--retry-faild"], "--retry-faild is neither an option of sky4 batch nor"),
        (["jobs.jsonl", "more.jsonl", "-o", "out"], "more.jsonl is neither an option"),
        (["jobs.jsonl", "-o", "out", "--workers", "2"], "--workers 2: a number from 1 to 10000, and only with --ray"),
        (["in", "-o", "in"], "--out in is the folder of inputs"),
        (["in", "-o", "out", "--command", "extend"], "holds no video that the command takes"),
        (["--steps", "2", "jobs.jsonl", "-o", "out"], "--steps stands where the jobs belong"),
    ],
)
def test_a_bad_batch_is_refused_in_one_sentence(call: Call, tmp_path: Path, argv: list[str], words: str) -> None:
    write_jobs({"prompt": "a"})
    Path("in").mkdir()
    Path("in/a.png").touch()
    before = contents(tmp_path)
    code, out, err = call("batch", *argv)
    assert code == 2, out
    assert words in err
    assert err.count("\n") == 1
    assert contents(tmp_path) == before


def test_ray_that_is_not_installed_is_told_with_the_remedy(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    write_jobs({"prompt": "a"})
    for argv in (["--ray"], ["--ray", "auto"], ["--ray", "ray://head:10001"]):
        code, _, err = call("batch", "jobs.jsonl", "-o", "out", *argv)
        assert code == 2
        assert "pip install 'sky4[ray]'" in err


def test_an_output_of_the_users_stays(call: Call, tmp_path: Path) -> None:
    write_jobs({"prompt": "a", "only": "still", "out": "a.png"})
    Path("out").mkdir()
    Path("out/a.png").write_bytes(b"mine")
    code, out, _ = call("batch", "jobs.jsonl", "-o", "out")
    assert code == 4
    assert "exists already" in out
    assert Path("out/a.png").read_bytes() == b"mine"
    shutil.rmtree("out")
    assert call("batch", "jobs.jsonl", "-o", "out")[0] == 0


def test_a_row_says_where_its_recipe_and_its_events_go_and_what_memory_it_has(call: Call, tmp_path: Path) -> None:
    write_jobs(
        {"prompt": "a", "only": "video", "sidecar": True, "events": "log.jsonl", "memory": "1G", "out": "a.mp4"},
        {"prompt": "a", "only": "still", "no-metadata": True, "out": "b.png"},
        {"prompt": "a", "only": "video", "memory": "64M", "out": "c.mp4"},
        {"prompt": "a", "only": "video", "events": "-", "out": "d.mp4"},
        {"prompt": "a", "only": "video", "events": "../log.jsonl", "out": "e.mp4"},
        {"prompt": "a", "only": "video", "c2pa": "cert.pem", "out": "f.mp4"},
        {"prompt": "a", "only": "video", "memory": "much", "out": "g.mp4"},
    )
    code, out, err = call("batch", "jobs.jsonl", "-o", "out", "--json")
    assert code == 4
    told = {job["job"]: job for job in json.loads(out)["jobs"]}
    assert {name: job["status"] for name, job in told.items()} == {
        "a.mp4": "made",
        "b.png": "made",
        "c.mp4": "failed",
        "g.mp4": "failed",
    }
    assert "--memory 0.06G: the clip needs " in told["c.mp4"]["message"]
    assert "--memory much: expected a size" in told["g.mp4"]["message"]
    assert [fault["message"] for fault in json.loads(out)["faults"]] == [
        "'-' is no file; the events of a job go into one, such as events.jsonl",
        f"the output '../log.jsonl' leads out of '{tmp_path / 'out'}'; choose a name inside",
        "'c2pa' takes a list of 2, got 1",
    ]
    assert read_recipe(Path("out/a.mp4.json"))["request"] == read_recipe(Path("out/a.mp4"))["request"]
    with pytest.raises(RequestError, match="holds no sky4 recipe"):
        read_recipe(Path("out/b.png"))
    events = [read_event(line) for line in Path("out/log.jsonl").read_text().splitlines()]
    assert (events[0]["event"], events[0]["command"], events[-1]["ok"]) == ("start", "generate", True)
    assert [event["path"] for event in events if event["event"] == "artifact"] == [str(tmp_path / "out" / "a.mp4")]
    assert told["a.mp4"]["check"]["passed"] is True
    code, _, err = call("batch", "jobs.jsonl", "-o", "more", "--events", "-")
    assert code == 2 and "--events -: many jobs tell their events here; name a file" in err


def test_a_clip_that_a_gate_refuses_exits_with_4_and_no_check_keeps_it(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sky4.batch import work

    black = {"passed": False, "gates": {"black": {"passed": False, "told": "all of it is black"}}}
    monkeypatch.setattr(work, "checked", lambda *_: black)
    write_jobs({"prompt": "a", "only": "still", "sidecar": True, "out": "sub/a.png"})
    code, out, _ = call("batch", "jobs.jsonl", "-o", "out")
    assert code == 4
    assert "1/1  sub/a.png  failed: refused by the gate 'black' (all of it is black) of `sky4 check`" in out
    assert Path("out/refused/sub/a.png").is_file() and Path("out/refused/sub/a.png.json").is_file()
    assert list(Path("out/sub").iterdir()) == []
    code, out, err = call("batch", "jobs.jsonl", "-o", "out", "--no-check", "--json")
    assert code == 0, err
    assert "check" not in json.loads(out)["jobs"][0]
