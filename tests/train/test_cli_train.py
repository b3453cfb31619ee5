"""`sky4 train` from the command line, on the nano model's own codecs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from sky4cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(nano_model: Path, tmp_path: Path) -> Path:
    values: dict[str, Any] = {
        "preset": "nano",
        "codecs": {
            "video": str(nano_model / "video_vae"),
            "audio": str(nano_model / "audio_vae"),
            "text": str(nano_model / "text_encoder"),
            "text_max_tokens": 256,
        },
        "clip": {"width": 32, "height": 32, "frames": 5, "fps": 16},
        "data": {"cache": str(tmp_path / "cache"), "clips": 2, "images": 2, "shard": 2},
        "tasks": {"t2av": {"weight": 1.0}, "t2i": {"weight": 1.0}},
        "batch": {"largest": 2},
        "schedule": {"samples": 4, "warmup": 0},
        "run": {"folder": str(tmp_path / "run"), "sample_minutes": 0.0},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def sky4(*argv: object) -> int:
    return main([str(word) for word in argv])


def test_cache_joint_resume_export_and_the_model_is_one(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sky4("train", "cache", config) == 0
    assert sky4("train", "joint", config, "--set", "run.sample_minutes=1e-9", "--set", "run.sample_steps=1") == 0
    assert "done: 4 samples" in capsys.readouterr().out
    assert list((tmp_path / "run" / "samples").glob("*/sheet.png"))
    assert sky4("train", "joint", config, "--resume", "--set", "schedule.samples=8") == 0
    assert "done: 8 samples" in capsys.readouterr().out
    target = tmp_path / "model"
    assert sky4("train", "export", config, target, "--default", "steps=2", "--name", "made") == 0
    assert json.loads((target / "model.json").read_text())["notes"] == {"trained_samples": 8}
    assert sky4("doctor", "--model", target, "--json") == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["joint", "none.yaml"], "cannot read the training config none.yaml"),
        (["joint", "CONFIG", "--set", "run.foldr=x"], "unknown setting config.run.foldr; known here: folder"),
        (["joint", "CONFIG", "--set", "run.folder"], "--set must be NAME=VALUE, got 'run.folder'"),
        (["joint", "CONFIG", "--decay-minutes", "3"], "--decay-minutes 3 needs a --max-minutes at least as long"),
        (["joint", "CONFIG", "--set", "run.device=abacus"], "run.device must be auto, cpu, cuda or cuda:N"),
        (["cache", "CONFIG", "--part", "3/2"], "--part must be I/N with 1 <= I <= N, such as 1/2, got '3/2'"),
        (["cache", "CONFIG", "--set", "codecs.video=nowhere"], "there is no folder nowhere with a video codec"),
        (["export", "CONFIG", "model"], "holds no checkpoint: train first, or give --checkpoint"),
    ],
)
def test_bad_requests_are_one_sentence(
    config: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sky4("train", *(config if word == "CONFIG" else word for word in words)) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.count("\n") == 1


def test_a_missing_cache_is_a_failure_with_its_remedy(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sky4("train", "joint", config) == 1
    assert "make them with 'sky4 train cache'" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_saves_and_exits_130(config: Path, tmp_path: Path) -> None:
    assert sky4("train", "cache", config) == 0
    argv = [sys.executable, "-m", "sky4cli", "train", "joint", str(config), "--set", "schedule.samples=100000000"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'python_model'}:{ROOT}"}
    with subprocess.Popen([*argv, "--set", "run.log_seconds=0"], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the first step's line
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert "interrupt:" in process.stdout.read().decode()
    assert process.returncode == 130
    assert list((tmp_path / "run" / "checkpoints").glob("*/state.json"))
