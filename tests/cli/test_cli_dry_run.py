"""`--dry-run`, `--memory` and `sky4 bench calibrate`, through the command line, on a nano model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sky4.media import read_recipe, write_clip
from sky4cli.main import main

DRUM = "a red circle bounces <sfx>a low drum at each bounce</sfx>"
SOURCE = "source.mkv"


@pytest.fixture
def run(refining_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Call a command in a folder of its own that holds a clip; returns (exit code, stdout, stderr)."""
    from fractions import Fraction

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pictures = np.random.default_rng(0).integers(0, 255, (17, 32, 32, 3), dtype=np.uint8)
    write_clip(Path(SOURCE), [pictures], None, fps=Fraction(16), recipe={})

    def call(*argv: str, model: bool = True) -> tuple[int, str, str]:
        code = main([*argv, *(["--model", str(refining_model)] if model else [])])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


COMMANDS = {
    "generate": ("generate", "--prompt", DRUM, "-o", "out.mp4"),
    "refined": ("generate", "--prompt", DRUM, "--refine", "2x", "--keyframes", "2", "-o", "out.mp4"),
    "inpaint": ("inpaint", SOURCE, "--box", "8,8,8,8", "--prompt", DRUM, "-o", "out.mp4"),
    "edit": ("edit", SOURCE, "--prompt", "remove the red circle", "-o", "out.mp4"),
    "extend": ("extend", SOURCE, "--seconds", "1", "--sound", "--prompt", DRUM, "-o", "out.mp4"),
    "refine": ("refine", SOURCE, "-o", "out.mp4"),
}


@pytest.mark.parametrize("argv", COMMANDS.values(), ids=COMMANDS)
def test_every_command_tells_its_plan_and_makes_nothing(
    argv: tuple[str, ...], run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sky4.pipeline.components import Components

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(Components, "load", refuse)
    code, out, err = run(*argv, "--dry-run", "--json")
    assert code == 0, err
    told = json.loads(out)["plan"]
    names = [stage["name"] for stage in told["stages"]]
    assert names[0] == "text" and names[-1] == "mux" and ("base" in names) == (argv[0] != "refine")
    assert ("refiner" in names) == ("--refine" in argv or argv[0] == "refine")
    assert told["seconds"] is None and "estimate" in told["calibration"]
    assert not Path("out.mp4").exists()


def test_the_table_says_what_a_reader_needs(run) -> None:
    code, out, _ = run("generate", "--prompt", DRUM, "--dry-run")
    assert code == 0
    words = ("stage", "calls", "FLOPs", "peak memory", "seconds", "decode picture", "transformer", "calibration: none")
    assert all(word in out for word in words)


def test_a_limit_is_kept_to_and_changes_no_bit_where_networks_come_and_go(run) -> None:
    assert run("generate", "--prompt", DRUM, "-o", "free.mkv", "--dtype", "float32")[0] == 0
    _, out, _ = run("generate", "--prompt", DRUM, "--dtype", "float32", "--dry-run", "--json")
    whole = json.loads(out)["plan"]["peak_bytes"]
    code, _, err = run(
        *("generate", "--prompt", DRUM, "-o", "tight.mkv", "--dtype", "float32", "--memory", f"{(whole - 1) // 1024}K")
    )
    assert code == 0, err
    free, tight = read_recipe(Path("free.mkv")), read_recipe(Path("tight.mkv"))
    assert tight["computed"]["economy"]["release"] and not free["computed"]["economy"]["release"]
    assert tight["latents"] == free["latents"]
    assert "are expected; networks leave the memory" in err
    assert run("rerun", "tight.mkv", "-o", "again.mkv")[0] == 0


def test_what_does_not_fit_exits_with_3_and_leaves_nothing(run) -> None:
    code, out, err = run("generate", "--prompt", DRUM, "-o", "out.mp4", "--memory", "64M")
    assert (code, out) == (3, "")
    assert err.splitlines()[-1].startswith("sky4: --memory 0.06G: the clip needs ")
    assert not Path("out.mp4").exists()


@pytest.mark.parametrize("size", ["", "12", "G", "-3G", "12X", "0G", "nanG"])
def test_a_size_that_is_none_is_refused(size: str, run) -> None:
    code, _, err = run("generate", "--prompt", DRUM, "-o", "out.mp4", f"--memory={size}")
    assert code == 2 and f"--memory {size}" in err


def test_a_rerun_can_be_planned(run) -> None:
    assert run("generate", "--prompt", DRUM, "-o", "first.mkv")[0] == 0
    code, out, err = run("rerun", "first.mkv", "-o", "again.mkv", "--dry-run", "--json")
    assert code == 0, err
    assert json.loads(out)["plan"]["stages"] and not Path("again.mkv").exists()


def test_a_preset_is_for_plans_alone(run) -> None:
    code, _, err = run("generate", "--preset", "full", "--prompt", DRUM, model=False)
    assert code == 2 and "--preset full has no weights" in err and "--dry-run" in err
    code, _, err = run("generate", "--preset", "full", "--prompt", DRUM, "--dry-run")
    assert code == 2 and "--model" in err


@pytest.mark.slow
def test_a_preset_on_paper_tells_gpus_and_calls_its_figures_estimates(run) -> None:
    code, out, err = run("generate", "--preset", "1b", "--prompt", DRUM, "--dry-run", "--json", model=False)
    assert code == 0, err
    told = json.loads(out)
    assert {row["gpus"] for row in told["sharding"]} == {1, 8, 64}
    assert all(row["sequence"] * row["clips"] == row["gpus"] for row in told["sharding"])
    assert "estimates" in told["assumed"]


@pytest.mark.slow
def test_memory_is_predicted_on_a_size_that_was_not_measured(
    run, refining_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from sky4.pipeline.model_folder import ModelFolder
    from sky4.planning import measuring
    from sky4cli.calibrate import run_probe
    from tests.pipeline.plain import PLAIN

    monkeypatch.setattr(measuring, "SIZES", ((1, 1), (2, 2), (6, 2)))
    code, out, err = run("bench", "calibrate", "--rounds", "1", "--json", "--dtype", "float32")
    assert code == 0, err
    assert Path(json.loads(out)["path"]).is_file()
    asked = ("generate", "--prompt", PLAIN.prompt, "--size", "128x128", "--frames", "17", "--dtype", "float32")
    _, out, _ = run(*asked, "--dry-run", "--json")
    plan = json.loads(out)["plan"]
    assert plan["calibrated"] and plan["seconds"] > 0
    folder = ModelFolder.read(refining_model)
    request = replace(PLAIN, width=128, height=128, frames=17, steps=folder.defaults.steps)
    seen = run_probe(request, {"model": str(refining_model), "dtype": "float32"})["stages"]
    measured = max(one["peak_bytes"] for name, one in seen.items())
    assert plan["peak_bytes"] == pytest.approx(measured, rel=0.15)
