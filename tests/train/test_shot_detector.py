"""Training of the shot detector: samples are what they are, whatever keeps them, and learning begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sky4.shots.kinds import CONTENTS, OPTICALS
from sky4.train.shot_detector import MOST_PAIRS, ShotDetectorConfig, ShotDetectorProblem, make_sample

SMALL = ShotDetectorConfig(stories=6, frames=41, width=8, hidden=8)


def test_a_sample_tells_what_happens_at_each_thumbnail_and_what_its_shots_are() -> None:
    samples = [make_sample(SMALL, number) for number in range(6)]
    for sample in samples:
        assert len(sample.features) == len(sample.kinds) == 41
        assert 0 <= int(sample.kinds.min()) <= int(sample.kinds.max()) <= len(OPTICALS)
        assert len(sample.pairs) == len(sample.contents) <= MOST_PAIRS
        assert all(0 <= int(content) < len(CONTENTS) for content in sample.contents)
    assert any(len(sample.pairs) for sample in samples)
    assert all(torch.equal(one, other) for one, other in zip(*(vars(make_sample(SMALL, 3)).values(),) * 2, strict=True))


@pytest.mark.parametrize("cached", [False, True])
def test_what_is_kept_is_what_was_made(tmp_path: Path, cached: bool) -> None:
    config = replace(SMALL, cache=str(tmp_path / "cache")) if cached else SMALL
    for _ in range(2):  # the second time from the files
        problem = ShotDetectorProblem(config)
        for _ in range(2):  # the second time from memory
            for number in (4, 1):
                own = vars(make_sample(SMALL, number))
                for name, kept in vars(problem._sample(number)).items():
                    assert torch.equal(kept, own[name]), name


def test_it_learns() -> None:
    problem = ShotDetectorProblem(SMALL)
    optimizer = torch.optim.AdamW(problem.module.parameters(), 0.01)
    losses = []
    for step in range(20):
        loss, shown = problem.loss(0, 6 * step, 6)  # all samples, in another order
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert set(shown) == {"frames", "pairs", "content"}
    assert losses[-1] < 0.7 * losses[0]
