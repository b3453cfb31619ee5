"""One clip of a batch: killed on the way, it goes on where it was; what it tells, and how it is signed and checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sky4.batch.work import Order, make_clip
from sky4.pipeline.clip import Progress
from sky4.pipeline.components import Components
from sky4.pipeline.engine import Engine
from sky4.pipeline.request import ClipRequest
from tests.pipeline.plain import PLAIN


@pytest.fixture(scope="module")
def components(nano_model: Path) -> Components:
    return Components.load(nano_model, "cpu", "float32")


def made(request: ClipRequest, components: Components, out: Path, state: Path, progress: Progress) -> dict:
    engine = Engine(components.folder.path, dtype="float32")
    return make_clip(Order(request, engine, out, components.digest, state, check=False), components, progress)


def test_a_job_that_was_killed_goes_on_where_it_was(components: Components, tmp_path: Path) -> None:
    request, steps = replace(PLAIN, steps=5), list[int]()

    def interrupting(stage: str, done: int, total: int) -> None:
        if stage == "sampling" and done == 3:
            raise KeyboardInterrupt

    def noting(stage: str, done: int, total: int) -> None:
        if stage == "sampling":
            steps.append(done)

    whole = made(request, components, tmp_path / "whole.mp4", tmp_path / "other", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        made(request, components, tmp_path / "a.mp4", tmp_path / "state", interrupting)
    again = made(request, components, tmp_path / "a.mp4", tmp_path / "state", noting)
    assert steps[0] in (2, 3)
    assert again["latents"] == whole["latents"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "whole.mp4"]


def test_a_state_of_another_clip_is_left_behind(components: Components, tmp_path: Path) -> None:
    def interrupting(stage: str, done: int, total: int) -> None:
        if stage == "sampling" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(replace(PLAIN, steps=5), components, tmp_path / "a.mp4", tmp_path / "state", interrupting)
    again = made(replace(PLAIN, seed=9), components, tmp_path / "a.mp4", tmp_path / "state", lambda *_: None)
    assert again["seed"] == 9
    assert not (tmp_path / "state").exists()
