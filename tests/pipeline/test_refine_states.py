"""A refined clip that is killed, in its sampling or in its refining, goes on to the same bits."""

from __future__ import annotations

import random
import signal
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from sky4.media import write_clip
from sky4.pipeline import generate, refine
from sky4.pipeline.clip import Clip
from sky4.pipeline.components import Components
from sky4.pipeline.generate import generate_clip, generate_clips
from sky4.pipeline.refinement import Refinement
from sky4.pipeline.request import ClipRequest, Segments, Source
from sky4.pipeline.states import ResumeFolder
from tests.pipeline.lives import killed_after, killed_refining_after, life
from tests.pipeline.plain import PLAIN

TWICE = Refinement(64, 64, steps=5, rate=2)  # 18 tiles a step on the nano refiner


@pytest.fixture(scope="module")
def refining(refining_model: Path) -> Components:
    return Components.load(refining_model, "cpu", "float32")


def a_file(folder: Path) -> ClipRequest:
    """As `sky4 refine` asks: a film that is given whole, so that nothing is sampled before it is refined."""
    pictures = np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3), dtype=np.uint8)
    write_clip(folder / "film.mkv", [pictures], None, fps=Fraction(16), recipe={})
    source = Source(folder / "film.mkv", "film.mkv", frames=9)
    return replace(PLAIN, prompt="", outputs="video", sources=(source,), refinement=TWICE)


FORMS = {
    "a prompt": lambda _: replace(PLAIN, refinement=TWICE),
    "keyframes": lambda _: replace(PLAIN, refinement=replace(TWICE, keyframes=(0, 2))),
    "two windows": lambda _: replace(PLAIN, frames=21, segments=Segments(13, 5), refinement=replace(TWICE, rate=1)),
    "a file": a_file,
}


def run(request: ClipRequest, components: Components, folder: Path) -> list[Clip]:
    return list(generate_clips(request, components, states=ResumeFolder.open(folder, request, components, every=1)))


def same(clip: Clip, other: Clip) -> bool:
    return clip.checksums == other.checksums and all(
        torch.equal(a, b)
        for one, two in zip(clip.windows, other.windows, strict=True)
        for a, b in zip(one.latents, two.latents, strict=True)
        if a is not None
    )


@pytest.mark.parametrize("form", FORMS)
def test_refining_that_is_killed_again_and_again_ends_with_the_same_bits(
    form: str, refining: Components, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = FORMS[form](tmp_path)
    undisturbed = generate_clip(request, refining)
    tiles, lives, ended = random.Random(form), 0, int(signal.SIGKILL)
    while ended == signal.SIGKILL:
        lives += 1
        with monkeypatch.context() as patch:
            killed_refining_after(tiles.randint(18, 60), patch)
            ended = life(lambda: run(request, refining, tmp_path / "state"))
    assert lives >= 2 and ended == 0
    [resumed] = run(request, refining, tmp_path / "state")
    assert same(resumed, undisturbed)


def test_killed_in_both_it_does_nothing_again_that_is_done(
    refining: Components, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = replace(PLAIN, steps=4, refinement=TWICE)
    with monkeypatch.context() as patch:
        killed_after(3, patch)
        assert life(lambda: run(request, refining, tmp_path / "state")) == signal.SIGKILL
    with monkeypatch.context() as patch:
        killed_refining_after(3 * 18 + 5, patch)
        assert life(lambda: run(request, refining, tmp_path / "state")) == signal.SIGKILL
    files = {path.name for path in (tmp_path / "state" / "0").iterdir()}
    assert files == {"sampling.safetensors", "refining.safetensors"}
    told: list[tuple[str, int]] = []
    kept = ResumeFolder.open(tmp_path / "state", request, refining)
    monkeypatch.setattr(generate, "model_velocity", lambda *_: lambda *_: pytest.fail("what was sampled is again"))
    [made] = generate_clips(request, refining, lambda stage, done, _: told.append((stage, done)), states=kept)
    assert [done for stage, done in told if stage == "refining"] == [3, 4, 5]
    monkeypatch.undo()
    assert same(made, generate_clip(request, refining))
    assert {path.name for path in (tmp_path / "state" / "0").iterdir()} == {"window-0000.safetensors"}
    monkeypatch.setattr(refine, "refiner_velocity", lambda *_: pytest.fail("what was refined is again"))
    assert same(run(request, refining, tmp_path / "state")[0], made)
