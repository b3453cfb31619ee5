"""The seam report tells a jump from a clip that goes on."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from sky4.media import write_clip
from sky4.pipeline.seams import SeamMeter, SeamReport

RATE = 8000


def report(folder: Path, frames: np.ndarray | None, wave: np.ndarray | None, seams: list[int]) -> SeamReport:
    meter = SeamMeter(seams, range(16), Fraction(16))
    if frames is not None:
        chunks: Iterator[np.ndarray] = iter([frames[:1], frames[1:7], frames[7:]])
        assert np.array_equal(np.concatenate(list(meter.frames(chunks))), frames)
    if wave is not None:
        write_clip(folder / "a.wav", None, wave, fps=Fraction(16), recipe={}, sample_rate=RATE, force=True)
    found = meter.report(folder / "a.wav" if wave is not None else folder)
    assert found is not None
    return found


def drift(count: int = 32) -> np.ndarray:
    """Each frame is one level brighter than the one before."""
    return np.stack([np.full((20, 30, 3), 40 + index, np.uint8) for index in range(count)])


def tone(seconds: float, level: float) -> np.ndarray:
    return level * np.tile(np.sin(np.arange(round(seconds * RATE)) / 3), (2, 1)).astype(np.float32)


def test_a_clip_that_goes_on_has_the_usual_steps_at_its_seam(tmp_path: Path) -> None:
    found = report(tmp_path, drift(), tone(2, 0.3), [16])
    assert found.usual.colour == found.seams[0].colour == pytest.approx(1)
    assert found.usual.motion == found.seams[0].motion == pytest.approx(1)
    assert found.seams[0].loudness == pytest.approx(0, abs=0.2)
    assert found.line() == (
        "seam at 1.00 s: colour step 1.0 (usual 1.0), motion step 1.0 (usual 1.0), loudness step 0.0 dB (usual 0.0 dB)"
    )


def test_jumps_are_told_in_levels_and_decibels(tmp_path: Path) -> None:
    frames = drift()
    frames[16:, :, :, 0] += 30
    wave = np.concatenate([tone(1, 0.3), tone(1, 0.03)], axis=1)
    [seam] = report(tmp_path, frames, wave, [16]).seams
    assert seam.colour == pytest.approx(31)
    assert seam.motion == pytest.approx(11)
    assert seam.loudness == pytest.approx(20, abs=0.3)


def test_of_several_seams_the_line_tells_the_worst_and_the_record_all(tmp_path: Path) -> None:
    frames = drift()
    frames[24:] += 50
    found = report(tmp_path, frames, None, [16, 24])
    assert found.line().startswith("2 seams, at worst: colour step 51.0 (usual 1.0), motion step 51.0")
    values = found.values()
    assert [(seam["seconds"], seam["colour"], seam["loudness"]) for seam in values["seams"]] == [
        (1.0, 1.0, None), (1.5, 51.0, None),
    ]  # fmt: skip
    assert values["usual"] == {"colour": 1.0, "motion": 1.0, "loudness": None}


def test_silence_is_no_step_and_a_clip_without_seams_has_no_report(tmp_path: Path) -> None:
    assert report(tmp_path, drift(), np.zeros((2, 2 * RATE), np.float32), [16]).seams[0].loudness == 0
    assert SeamMeter([], range(0), Fraction(16)).report(tmp_path) is None
