"""Stories: several shots with exact transitions; what is drawn and heard is what the truth says."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from sky4.shots.kinds import CONTENTS, OPTICALS
from sky4.shots.mixing import mixed
from sky4.shots.words import read_switches, switched
from sky4.world.families import sample_family
from sky4.world.instructions import take_caption
from sky4.world.lexicon import VOCABULARY
from sky4.world.render import render_video
from sky4.world.sound import render_story_audio
from sky4.world.stories import STORY_SECONDS, Story, sample_story
from sky4.world.story_captions import story_caption
from sky4.world.take import Framing

FPS, FRAMES = 16, 81


def draw(shown, frames=FRAMES, fps=FPS, size=32, start=0.0) -> np.ndarray:
    return render_video([shown], frames, fps, size, start)[0].permute(1, 2, 3, 0).numpy()


STORIES = [sample_story(5, index) for index in range(200)]


def test_a_story_is_a_function_of_its_number() -> None:
    assert sample_story(5, 3) == STORIES[3]
    assert sample_story(5, 3) != sample_story(6, 3)
    assert sample_story(5, 3, "heldout") != STORIES[3]


def test_every_kind_comes_by_content_and_by_optics() -> None:
    joins = [join for story in STORIES for join in story.joins]
    contents, optics = Counter(j.content for j in joins), Counter(j.optical for j in joins)
    assert set(contents) == set(CONTENTS)
    assert min(contents.values()) > len(joins) / 10
    assert set(optics) == set(OPTICALS)
    assert min(optics.values()) > len(joins) / 20
    assert {len(story.takes) for story in STORIES} == {2, 3, 4}


def test_shots_lie_on_the_grid_and_last_three_quarters_of_a_second() -> None:
    for story in STORIES:
        edges = [0.0, *(edge for join in story.joins for edge in (join.begin, join.end)), STORY_SECONDS]
        alone = [end - begin for begin, end in zip(edges[::2], edges[1::2], strict=True)]
        assert min(alone) >= 0.75
        for join in story.joins:
            assert (join.begin * FPS) % 4 == 0.5  # at 16 frames a second a shot begins with a codec's group
            assert (join.seconds == 0) == (join.optical == "cut")


@pytest.mark.parametrize("fps", [8, 16, Fraction(30000, 1001)])
def test_a_cut_is_at_the_same_time_at_every_rate(fps) -> None:
    story = next(s for s in STORIES if s.joins[0].optical == "cut")
    [before, after, *_], cut = story.takes, story.joins[0].begin
    first = int(np.ceil(cut * float(fps)))  # the first frame that does not lie before the cut
    assert np.array_equal(draw(story, first + 1, fps), np.concatenate([
        draw(before, first, fps), draw(after, first + 1, fps)[-1:]]))  # fmt: skip


@pytest.mark.parametrize("kind", OPTICALS[1:])
def test_a_transition_mixes_both_shots_and_nothing_else(kind) -> None:
    story = next(s for s in STORIES if s.joins[0].optical == kind)
    join, (before, after, *_) = story.joins[0], story.takes
    times = np.arange(FRAMES) / FPS
    mixing = np.flatnonzero((times > join.begin) & (times < join.end))
    assert len(mixing) in (4, 8)
    shown = draw(story)
    seen = [draw(take) for take in (before, after)]
    last = mixing[-1] + 1
    assert np.array_equal(shown[: mixing[0]], seen[0][: mixing[0]])
    assert np.array_equal(shown[last : last + 12], seen[1][last : last + 12])
    for frame in mixing:
        share = (times[frame] - join.begin) / join.seconds
        a, b = (pictures[frame] * 0.5 + 0.5 for pictures in seen)
        edge = round(share * 32)
        expected = {
            "dissolve": a * (1 - share) + b * share,
            "fade": a * (1 - 2 * share) if share < 0.5 else b * (2 * share - 1),
            "wipe": np.concatenate([a[:, : 32 - edge], b[:, 32 - edge :]], 1),
            "push": np.concatenate([a[:, edge:], b[:, :edge]], 1),
        }[kind]
        assert np.allclose(shown[frame] * 0.5 + 0.5, expected, atol=1e-5)


def test_the_five_kinds_show_what_they_say() -> None:
    for story in STORIES:
        for join, before, after in zip(story.joins, story.takes, story.takes[1:], strict=False):
            same = before.things == after.things and before.talker == after.talker
            place = before.backdrop == after.backdrop
            nearer = before.framing.width / after.framing.width
            turned = before.framing.mirrored != after.framing.mirrored
            expected = {
                "cut-in": same and place and nearer > 1.3 and not turned,
                "cut-out": same and place and nearer < 1 / 1.3 and not turned,
                "shot-reverse-shot": not same and place and turned and 0.6 < nearer < 1.6,
                "multi-angle": same and place and turned and after.framing.roll != before.framing.roll,
                "cut-away": not same and not place,
            }
            assert expected[join.content], (join.content, before, after)


def test_each_shot_sounds_while_it_is_seen_and_rings_on() -> None:
    story = next(s for s in STORIES if all(take.things for take in s.takes))
    wave = render_story_audio([story], round(STORY_SECONDS * 44100))[0]
    hits = story.hits(STORY_SECONDS)
    spans = story.spans(STORY_SECONDS)
    for take, (begin, end) in zip(story.takes, spans, strict=True):
        moving = next(thing for thing in take.things if thing.motion != "static")
        mine = [event.time for event in moving.events(begin, end - begin)]
        assert mine == [event.time for material, event in hits if begin <= event.time < end]
        assert {material for material, event in hits if begin <= event.time < end} == {moving.material}
    (_, event), at = hits[0], math.ceil(hits[0][1].time * 44100)
    assert not wave[:, :at].any()
    left, right = wave[:, at : at + 2000].norm(dim=1)
    angle = min(max(event.x, 0.0), 1.0) * math.pi / 2
    assert float(torch.atan2(right, left)) == pytest.approx(angle, abs=1e-3)


def test_a_framing_shows_a_thing_where_it_says() -> None:
    story: Story = next(s for s in STORIES if s.takes[-1].framing.mirrored and s.takes[-1].framing.roll == 0)
    framing = story.takes[-1].framing
    x, y = torch.tensor(0.3), torch.tensor(0.5)
    scene_x, scene_y = framing.scene(x, y)
    assert framing.seen_x(float(scene_x)) == pytest.approx(0.3)
    assert float(scene_y) == pytest.approx(framing.y)


def test_too_many_shots_are_refused() -> None:
    assert len(sample_story(1, 0, seconds=33 / 16).takes) == 2
    with pytest.raises(ValueError, match="holds 2 to 2 shots, got 4"):
        sample_story(1, 0, seconds=33 / 16, shots=4)


def test_one_kind_alone_can_be_asked_for() -> None:
    for kind in CONTENTS:
        story = sample_story(2, 7, shots=2, contents=(kind,), opticals=("cut",))
        assert [(join.content, join.optical) for join in story.joins] == [(kind, "cut")]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_captions_name_every_transition_and_are_read_back(language) -> None:
    for story in STORIES[:60]:
        text = story_caption(story, language, np.random.default_rng(story.index))
        assert read_switches(text) == tuple(join.content for join in story.joins), text
        assert text.count("[Shot" if language == "en" else "【镜头") == len(story.takes)


def test_a_prompt_gets_the_words_of_its_own_language() -> None:
    assert switched("a red circle", "cut-in") == "Cut in to a close-up: a red circle"
    assert switched("一个红色圆形", "cut-out") == "切出全景：一个红色圆形"
    assert read_switches(switched("a red circle", "multi-angle")) == ("multi-angle",)


def test_mixing_leaves_both_pictures_as_they_were() -> None:
    a, b = np.zeros((4, 8, 3), np.float32), np.ones((4, 8, 3), np.float32)
    for kind in OPTICALS:
        mixed(kind, a, b, 0.3)
    assert a.max() == 0
    assert b.min() == 1
    assert np.array_equal(mixed("cut", a, b, 0.0), a)
    assert np.array_equal(mixed("cut", a, b, 0.5), b)


def test_a_caption_tells_of_the_frame_and_not_of_the_scene() -> None:
    """Seen from behind, what goes left in the scene goes right: compared with where the picture's colour goes."""
    told = 0
    for index in range(60):
        take = sample_story(3, index, shots=2, contents=("multi-angle", "shot-reverse-shot"), opticals=("cut",)).takes[
            1
        ]
        if take.talker is not None or take.things[-1].motion not in ("left", "right") or not take.framing.mirrored:
            continue
        alone = replace(take, things=take.things[-1:], weather="clear", light="day", style="flat", camera="static")
        still = replace(alone, things=())
        times = [1.5, 2.5]
        with_it, without = (render_video([one] * 2, 1, 1, 64, times)[:, :, 0] for one in (alone, still))
        shown = (with_it - without).abs().sum(1)
        middles = (shown.sum(1) * torch.arange(64)).sum(1) / shown.sum((1, 2))
        text = take_caption(alone, "en", np.random.default_rng(index))
        ways = {way: any(word in text for word in VOCABULARY["en"]["direction"][way]) for way in ("left", "right")}
        assert ways == {"left": bool(middles[1] < middles[0]), "right": bool(middles[1] > middles[0])}, text
        told += 1
    assert told >= 5


def test_a_close_up_tells_of_no_thing_that_it_does_not_show() -> None:
    thing = sample_family(1, 0).newcomer
    still = replace(thing, motion="static", x0=0.8, y0=0.2)
    assert Framing(0.5, 0.6, 0.5).shows(still) is None
    seen = Framing(0.5, 0.5, 1.0, mirrored=True).shows(still)
    assert seen is not None
    assert seen.x0 == pytest.approx(0.2)
    assert Framing().shows(still) == still


@pytest.mark.parametrize(("mirrored", "roll"), [(False, 0.0), (True, 0.0), (True, 0.3), (False, -0.2)])
def test_where_a_point_is_seen_is_the_scene_turned_round(mirrored: bool, roll: float) -> None:
    framing = Framing(0.4, 0.6, 0.7, mirrored, roll)
    x, y = framing.scene(torch.tensor(0.3), torch.tensor(0.8))
    assert framing.seen(float(x), float(y)) == pytest.approx((0.3, 0.8), abs=1e-6)
