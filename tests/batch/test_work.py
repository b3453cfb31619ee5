"""One clip of a batch: killed on the way, it goes on where it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sky4.batch.work import make_clip
from sky4.pipeline.components import Components
from tests.pipeline.plain import PLAIN


@pytest.fixture(scope="module")
def components(nano_model: Path) -> Components:
    return Components.load(nano_model, "cpu", "float32")


def test_a_job_that_was_killed_goes_on_where_it_was(components: Components, tmp_path: Path) -> None:
    request, steps = replace(PLAIN, steps=5), list[int]()

    def interrupting(stage: str, done: int, total: int) -> None:
        if stage == "sampling" and done == 3:
            raise KeyboardInterrupt

    def noting(stage: str, done: int, total: int) -> None:
        if stage == "sampling":
            steps.append(done)

    whole = make_clip(request, components, tmp_path / "whole.mp4", False, lambda *_: None, tmp_path / "other")
    with pytest.raises(KeyboardInterrupt):
        make_clip(request, components, tmp_path / "a.mp4", False, interrupting, tmp_path / "state")
    made = make_clip(request, components, tmp_path / "a.mp4", False, noting, tmp_path / "state")
    assert steps[0] in (2, 3)
    assert made["latents"] == whole["latents"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "whole.mp4"]


def test_a_state_of_another_clip_is_left_behind(components: Components, tmp_path: Path) -> None:
    def interrupting(stage: str, done: int, total: int) -> None:
        if stage == "sampling" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_clip(replace(PLAIN, steps=5), components, tmp_path / "a.mp4", False, interrupting, tmp_path / "state")
    made = make_clip(replace(PLAIN, seed=9), components, tmp_path / "a.mp4", False, lambda *_: None, tmp_path / "state")
    assert made["seed"] == 9
    assert not (tmp_path / "state").exists()
