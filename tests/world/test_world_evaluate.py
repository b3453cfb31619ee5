"""The evaluation is near perfect on truth, falls to chance where the truth is broken, and only there."""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from sky4.world.captions import facts
from sky4.world.evaluate import measure_clip, psnr, report, summarise, verdict, world_prompts
from sky4.world.measure_audio import measure_audio
from sky4.world.vocabulary import is_held_out


def table(truth, clips):
    return {measure.name: measure for measure in summarise([prompt for prompt, _, _ in truth], clips)}


@pytest.fixture(scope="module")
def ceiling(truth, measured):
    return table(truth, measured)


@pytest.fixture(scope="module")
def shuffled(truth, measured):
    """Each clip with the sound of the next one."""
    return table(truth, [replace(clip, audio=measured[i - 1].audio) for i, clip in enumerate(measured)])


@pytest.mark.parametrize("name", ["colour", "shape", "direction", "sound class", "size", "tempo", "background"])
def test_rendered_truth_scores_near_the_top(ceiling, name):
    assert ceiling[name].value >= 0.97
    assert ceiling[name].chance <= 0.34


def test_rendered_truth_is_in_sync_and_in_place(ceiling):
    assert ceiling["median |offset|"].value <= 15
    assert ceiling["p90 |offset|"].value <= 40
    assert ceiling["events in sync (F1, 125 ms)"].value >= 0.97
    assert ceiling["clips with matched events"].value == 1.0
    assert ceiling["seen, not heard, per clip"].value == ceiling["heard, not seen, per clip"].value == 0.0
    assert ceiling["pan against x: correlation"].value >= 0.999
    assert ceiling["pan against x: mean error (widths)"].value <= 0.01


def test_the_sounds_of_other_clips_are_at_chance_and_what_is_seen_is_untouched(ceiling, shuffled):
    for name in ("colour", "shape", "direction", "size", "background"):
        assert shuffled[name] == ceiling[name]
    assert shuffled["sound class"].value <= 0.45
    assert shuffled["median |offset|"].value >= 110
    assert shuffled["events in sync (F1, 125 ms)"].value <= 0.6
    assert abs(shuffled["pan against x: correlation"].value) <= 0.35
    # the chance level told beside the truth is what shuffling comes to
    for name in ("median |offset|", "events in sync (F1, 125 ms)", "pan against x: mean error (widths)"):
        assert shuffled[name].value == pytest.approx(ceiling[name].chance, rel=0.3)


def test_a_sound_put_later_is_told_to_the_millisecond(truth, measured, ceiling):
    late = [replace(c, audio=replace(c.audio, onsets=tuple(t + 0.2 for t in c.audio.onsets))) for c in measured]
    moved = table(truth, late)
    assert moved["median |offset|"].value == pytest.approx(200, abs=8)
    assert moved["events in sync (F1, 125 ms)"].value <= 0.1
    assert moved["sound class"] == ceiling["sound class"]


def test_mono_sound_kills_pan_and_nothing_else(truth, measured, ceiling):
    mono = [
        replace(clip, audio=measure_audio(np.repeat(wave.mean(0, keepdims=True), 2, 0), 44100))
        for (_, _, wave), clip in zip(truth, measured, strict=True)
    ]
    scores = table(truth, mono)
    assert abs(scores["pan against x: correlation"].value) <= 0.1
    assert scores["pan against x: mean error (widths)"].value >= 0.1
    assert scores["sound class"] == ceiling["sound class"]
    assert scores["median |offset|"].value <= 15


def test_prompts_of_other_scenes_are_at_chance(truth, measured):
    wrong = [measured[i - 1] for i in range(len(measured))]
    scores = table(truth, wrong)
    for name in ("colour", "shape", "direction", "sound class"):
        assert scores[name].value <= scores[name].chance + 0.25, name
    assert scores["median |offset|"].value <= 15  # each clip is still in sync with itself


def test_nothing_seen_and_heard_counts_as_wrong_and_as_the_widest_offset(truth, measured):
    black, silence = np.zeros((81, 64, 64, 3), np.uint8), np.zeros((2, 223_256))
    empty = [measure_clip(black, silence, 16, 44100)] * len(truth)
    scores = table(truth, empty)
    assert scores["colour"].value == scores["shape"].value == scores["sound class"].value == 0.0
    assert scores["median |offset|"].value == 500
    assert scores["clips with matched events"].value == 0.0


def test_held_out_prompts_are_fixed_mixed_and_held_out():
    prompts = world_prompts(64)
    assert prompts == world_prompts(64)
    assert prompts[:10] == world_prompts(10)
    assert prompts != world_prompts(64, seed=1)
    assert all(is_held_out(p.scene.shape, p.scene.colour) for p in prompts)
    assert not any(is_held_out(p.scene.shape, p.scene.colour) for p in world_prompts(20, split="train"))
    assert sum(p.language == "zh" for p in prompts) == 16
    for language in ("en", "zh"):
        kinds = [p.kind for p in prompts if p.language == language]
        assert 0.4 <= kinds.count("structured") / len(kinds) <= 0.6
    assert all(p.asked.within(facts(p.scene)) for p in prompts)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        world_prompts(0)


def test_a_clip_is_not_blamed_for_what_its_prompt_leaves_open(truth, measured):
    prompt = replace(truth[0][0], text="a red circle moves left <sfx>a low drum at each beat</sfx>")
    assert set(verdict(prompt, measured[0])) == {"colour", "shape", "direction", "sound class"}
    silent = replace(measured[0], audio=None)
    assert "sound class" not in verdict(prompt, silent)
    names = {measure.name for measure in summarise([prompt], [silent])}
    assert "median |offset|" not in names
    assert "colour" in names


def test_a_table_of_one_clip_has_no_chance_from_shuffling(truth, measured):
    scores = table(truth[:1], measured[:1])
    assert np.isnan(scores["median |offset|"].chance)


def test_lists_of_unequal_length_and_empty_clips_are_refused(truth, measured):
    with pytest.raises(ValueError, match="2 prompts and 1 clips"):
        summarise([truth[0][0]] * 2, measured[:1])
    with pytest.raises(ValueError, match="got neither"):
        measure_clip(None, None, 16, 44100)


def test_the_report_is_plain_json(truth, measured):
    prompts = [prompt for prompt, _, _ in truth]
    text = json.dumps(report(prompts, measured, summarise(prompts, measured)))
    back = json.loads(text)
    assert len(back["clips"]) == len(truth)
    assert back["clips"][0]["right"]["colour"] is True


def test_psnr_is_that_of_the_textbook():
    one = np.zeros((4, 4, 3), np.uint8)
    assert psnr(one, one) == 99.0
    assert psnr(one, one + np.uint8(10)) == pytest.approx(20 * np.log10(25.5))
    with pytest.raises(ValueError, match="one shape"):
        psnr(one, one[:2])


def test_clips_without_picture_are_measured_by_their_sound(truth, measured):
    prompt, _, wave = truth[0]
    clip = measure_clip(None, wave, Fraction(16), 44100)
    assert clip.seconds == pytest.approx(81 / 16, abs=1e-4)
    assert verdict(prompt, clip)["sound class"]
    assert clip.tempo == prompt.scene.tempo
