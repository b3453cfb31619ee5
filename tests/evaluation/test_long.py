"""The long suite's pure parts: cases, judging of the truth and of what is not it, fairness to peers; the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sky4.errors import RequestError
from sky4.evaluation.avatars import avatar_case, avatar_measure, judge_avatar
from sky4.evaluation.long import judge_long, long_case
from sky4.evaluation.shot_peers import _outside, available, peer_scores
from sky4.shots.kinds import CONTENTS, Content
from sky4.shots.network import ShotNetwork
from sky4.shots.scoring import Found, Truth
from sky4cli.eval import eval_app
from tests.pipeline.plain import PLAIN

RATE = 44100
ASKED = replace(PLAIN, width=64, height=64, frames=33)


@pytest.fixture(scope="module")
def network() -> ShotNetwork:
    return ShotNetwork.load()


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_cases_second_shot_begins_where_the_given_frames_end(kind: Content) -> None:
    for index in range(4):
        case = long_case(kind, index, ASKED)
        [join] = case.story.joins
        assert (join.content, join.optical) == (kind, "cut")
        assert (case.given - 1) / 16 < join.begin <= case.given / 16
        assert (case.given - 1) % 4 == 0
        truth = case.truth().astype(int)
        assert truth.shape == (33, 64, 64, 3)
        across = np.abs(truth[case.given] - truth[case.given - 1]).mean()
        assert across > np.abs(truth[case.given - 1] - truth[case.given - 2]).mean()


def test_cases_differ_and_are_what_they_are(network: ShotNetwork) -> None:
    one, again, other = long_case("cut-in", 0, ASKED), long_case("cut-in", 0, ASKED), long_case("cut-in", 1, ASKED)
    assert one.prompt == again.prompt
    assert np.array_equal(one.truth(), again.truth())
    assert not np.array_equal(one.truth(), other.truth())


def test_a_clip_that_is_too_short_for_two_shots_has_no_case() -> None:
    with pytest.raises(ValueError, match="shots"):
        long_case("cut-in", 0, replace(ASKED, frames=9))


def test_the_truth_is_judged_right_and_a_shot_that_goes_on_is_not(network: ShotNetwork) -> None:
    cases = [long_case(kind, index, ASKED) for kind in ("cut-in", "cut-away") for index in range(3)]
    judged = [judge_long(case, case.truth(), network) for case in cases]
    assert sum(one.switched for one in judged) >= 5
    assert sum(one.right for one in judged) >= 4
    assert all(one.subject for one in judged)
    for case in cases:
        still = np.concatenate([case.truth()[: case.given], case.truth()[case.given - 1 : case.given].repeat(16, 0)])
        gone_on = judge_long(case, still[:33], network)
        assert not gone_on.switched
        assert not gone_on.right


def head(index: int = 0, seconds: int = 4):
    return avatar_case(index, ASKED, seconds)


def test_a_head_is_itself_and_its_lips_are_with_its_speech() -> None:
    judged = [judge_avatar(head(index), head(index).truth(), RATE) for index in range(2)]
    measure = avatar_measure(judged)
    assert measure.follows == 1.0
    assert measure.median_lag is not None
    assert measure.median_lag <= 0.5
    assert measure.same == 1.0
    assert measure.likeness > 40
    assert measure.seconds == 4.0


def test_another_head_and_a_still_one_are_not() -> None:
    case, other = head(0), head(1)
    swapped = judge_avatar(case, other.truth(), RATE)
    assert not swapped.same
    still = judge_avatar(case, iter([case.portrait()[None].repeat(64, 0)]), RATE)
    assert still.same
    assert not still.follows
    assert avatar_measure([still]).median_lag is None


def test_a_late_head_is_told_so() -> None:
    case = head(0)

    def late() -> Iterator[np.ndarray]:
        frames = np.concatenate(list(case.truth()))
        yield np.concatenate([frames[:1].repeat(3, 0), frames[:-3]])

    lag = judge_avatar(case, late(), RATE).lag
    assert lag is not None
    assert lag.frames == pytest.approx(3, abs=0.5)


def test_a_case_is_drawn_and_heard_as_long_as_asked() -> None:
    case = head(0, 5)
    assert sum(len(chunk) for chunk in case.truth()) == 80
    assert case.wave(RATE).shape == (2, 5 * RATE)
    assert np.array_equal(next(case.truth())[0], case.portrait())


def test_what_a_peer_finds_inside_a_gradual_transition_is_not_held_against_it() -> None:
    truth = [Truth(1.0, 1.5, "dissolve", "cut-in"), Truth(3.0, 3.0, "cut", "cut-in")]
    found = [Found(at, at, "cut") for at in (0.5, 1.2, 3.0)]
    assert [one.begin for one in _outside(found, truth)] == [0.5, 3.0]


@pytest.mark.skipif(not available(), reason="PySceneDetect is not installed (the extra 'scenedetect')")
def test_peers_find_the_cuts_of_plain_stories() -> None:
    scores = peer_scores(range(4))
    assert {score.name for score in scores} == {"ContentDetector", "AdaptiveDetector"}
    assert sum(score.default for score in scores) == 2
    assert max(score.recall for score in scores) > 0.3


@pytest.mark.slow
def test_the_suite_runs_from_file_to_table(nano_model: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sky4.evaluation.long.DETECTED", range(5000, 5002))
    monkeypatch.setattr("sky4.evaluation.avatars.SECONDS", 2)
    argv = ["world", "--suite", "long", "--cases", "1", "--model", str(nano_model), "--steps", "1", "--quiet"]
    chosen = ["--task", "cut-in", "--task", "avatar", "--size", "32x32", "--frames", "25", "--out", "run"]
    eval_app([*argv, *chosen], standalone_mode=False)
    out = capsys.readouterr().out
    (line,) = json.loads(Path("run/results.json").read_text())["transitions"]
    assert line["guessed"] in (0.0, 1.0)
    for words in (
        "guess alone",
        "cut-in",
        "the same subject in both shots",
        "heads that talk for 2 s",
        "the detector on drawn stories",
    ):
        assert words in out
    results = json.loads(Path("run/results.json").read_text("utf-8"))
    assert [line["kind"] for line in results["transitions"]] == ["cut-in"]
    assert results["transitions"][0]["count"] == results["avatars"]["count"] == 1
    assert results["detector"]["count"] >= 2
    assert [case["task"] for case in results["cases"]] == ["cut-in", "avatar"]
    assert Image.open("run/contact_sheet.png").height > 0
    with pytest.raises(RequestError, match="--frames 9 is too short for two shots"):
        eval_app([*argv, "--size", "32x32", "--frames", "9", "--out", "short"], standalone_mode=False)
