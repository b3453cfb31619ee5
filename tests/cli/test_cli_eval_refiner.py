"""`sky4 eval world --suite refiner` on a nano model, and what it calls a seam."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from sky4.evaluation.refiner import psnr, seam_energy
from sky4.geometry import ClipGeometry
from sky4cli.main import main


def test_the_refiner_is_measured(refining_model: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["eval", "world", "--suite", "refiner", "--cases", "2", "--model", str(refining_model), "--quiet"]
    assert main([*argv, "-o", "run"]) == 0
    shown = capsys.readouterr().out
    for words in ("latents interpolated", "sparse against dense", "error across tile borders", "the codec alone"):
        assert words in shown
    assert "own pixels given, refined" in shown and "gain of two true keyframes" in shown
    assert "gain of two made keyframes" in shown and "by the same work" in shown
    results = json.loads(Path("run/results.json").read_text("utf-8"))
    assert len(results["cases"]) == 2 and results["cases"][0]["refined"] != results["cases"][1]["refined"]
    assert Image.open("run/contact_sheet.png").size == (4 * 4 * 64, 2 * 64)


def test_a_measurement_that_was_ended_goes_on(refining_model: Path, tmp_path: Path, monkeypatch):
    from sky4.evaluation import refiner as module

    monkeypatch.chdir(tmp_path)
    argv = ["eval", "world", "--suite", "refiner", "--model", str(refining_model), "--quiet", "-o", "run"]
    argv += ["--size", "48x48", "--frames", "5"]
    assert main([*argv, "--cases", "1"]) == 0
    measured: list[int] = []
    case = module._case
    monkeypatch.setattr(module, "_case", lambda index, *rest: (measured.append(index), case(index, *rest))[1])
    assert main([*argv, "--cases", "2", "--force"]) == 0
    assert measured == [1]
    results = json.loads(Path("run/results.json").read_text("utf-8"))
    assert [one["scene"] for one in results["cases"]] == [0, 1] and results["size"] == 48
    assert Image.open("run/contact_sheet.png").size == (4 * 4 * 96, 2 * 96)
    assert main([*argv, "--cases", "1", "--steps", "1", "--force"]) == 0  # of another measurement
    assert measured == [1, 0]


def test_flags_of_other_suites_are_refused(refining_model: Path, nano_model: Path, capsys):
    suite = ["eval", "world", "--suite", "refiner"]
    for flag in (["--task", "removal"], ["--count", "3"], ["--codec"], ["--save-clips"]):
        assert main([*suite, *flag, "--model", str(refining_model)]) == 2
        assert "does not belong to --suite refiner" in capsys.readouterr().err
    for frames, nearest in (("1", 5), ("8", 9)):
        assert main([*suite, "--frames", frames, "--model", str(refining_model)]) == 2
        assert f"--frames {frames} is not 4n + 1 and at least 5; nearest: {nearest}" in capsys.readouterr().err
    assert main([*suite, "--model", str(nano_model)]) == 2
    assert "holds no refiner" in capsys.readouterr().err


def test_a_step_at_a_tiles_border_is_a_seam():
    geometry = ClipGeometry(width=64, height=64, frames=17, spatial_compression=8, temporal_compression=4, patch=1)
    cells, tile, overlap = (5, 8, 8), (5, 8, 5), (0, 0, 2)  # columns 0 to 5 and 3 to 8
    error = torch.zeros(1, 3, 17, 64, 64)
    assert seam_energy(error, cells, tile, overlap, geometry) == (0.0, 0.0)
    error[..., 5 * 8 :] = 0.2
    border, inside = seam_energy(error, cells, tile, overlap, geometry)
    assert border == pytest.approx(0.2 * 127.5 / 2) and inside == 0.0
    error[..., 2 * 8 :] += 0.2  # a step inside
    assert seam_energy(error, cells, tile, overlap, geometry)[1] > 0


def test_psnr_is_of_pixels_from_minus_one_to_one():
    truth = torch.zeros(1, 3, 2, 4, 4)
    assert psnr(truth + 0.2, truth) == pytest.approx(20.0)
