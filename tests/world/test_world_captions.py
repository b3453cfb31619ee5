"""Captions say what is true, always say the main things, and can be read back."""

import re
from dataclasses import fields, replace

import numpy as np
import pytest

from sky4.world.captions import KINDS, Facts, caption, facts, parse
from sky4.world.lexicon import LANGUAGES, Language
from sky4.world.scene import Scene, sample_scene

SCENES = [sample_scene(11, index) for index in range(150)]
MAIN = ("shape", "colour", "motion", "drift", "material")


def written(language: Language, kind: str, **flags: bool) -> list[tuple[Scene, str]]:
    random = np.random.default_rng(3)
    return [(scene, caption(scene, kind, language, random, **flags)) for scene in SCENES]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_structured_caption_reads_back_as_every_fact_of_its_scene(language):
    for scene, text in written(language, "structured"):
        assert parse(text) == facts(scene), text


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", ["short", "long"])
def test_other_captions_say_the_main_facts_and_nothing_false(kind, language):
    for scene, text in written(language, kind):
        stated = parse(text)
        assert stated.within(facts(scene)), text
        assert all(getattr(stated, name) is not None for name in MAIN), text


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_silent_caption_states_no_sound_and_still_all_that_is_seen(kind, language):
    for scene, text in written(language, kind, silent=True):
        stated = parse(text)
        assert stated.material is None, text
        assert (stated.shape, stated.colour, stated.motion, stated.drift) == (
            scene.shape,
            scene.colour,
            scene.motion,
            scene.drift,
        ), text


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_caption_of_sound_alone_names_nothing_that_is_only_seen(kind, language):
    for scene, text in written(language, kind, audio_only=True):
        stated = parse(text)
        assert stated.material == scene.material, text
        assert stated.shape is stated.colour is stated.size is stated.background is None, text
        if scene.direction in ("left", "right"):
            assert stated.direction == scene.direction, text
        elif kind != "short":
            assert stated.place == scene.place, text


def test_optional_facts_are_stated_as_often_as_promised():
    short = [parse(text) for _, text in written("en", "short")]
    assert np.mean([stated.tempo is not None for stated in short]) == pytest.approx(0.6, abs=0.15)
    assert all(stated.size is None and stated.background is None for stated in short)
    long = [parse(text) for _, text in written("en", "long")]
    assert np.mean([stated.background is not None for stated in long]) == pytest.approx(0.85, abs=0.1)


def test_the_prompt_of_the_readme_belongs_to_the_grammar():
    prompt = "a red circle bounces on the ground, moving right <sfx>a low drum at each bounce</sfx>"
    wanted = Facts(shape="circle", colour="red", motion="bounce", drift="right", material="drum")
    assert parse(prompt) == wanted
    scene = replace(SCENES[0], shape="circle", colour="red", motion="bounce", drift="right", vx=0.1, material="drum")
    random = np.random.default_rng(0)
    assert prompt in {caption(scene, "short", "en", random) for _ in range(2000)}


def test_short_captions_are_short_and_all_captions_vary():
    texts = [text for _, text in written("en", "short")]
    assert max(len(text.split()) for text in texts) <= 24
    assert np.median([len(text.split()) for text in texts]) <= 16
    random = np.random.default_rng(5)
    for kind in KINDS:
        for language in LANGUAGES:
            assert len({caption(SCENES[0], kind, language, random) for _ in range(60)}) >= 10


def test_english_captions_use_the_right_article():
    for kind in KINDS:
        for _, text in written("en", kind):
            assert not re.search(r"\ba [aeiou]", text.lower()) and not re.search(r"\ban [^aeiou]", text.lower()), text


def test_the_same_draws_make_the_same_caption():
    one, two = (caption(SCENES[4], "long", "en", np.random.default_rng(9)) for _ in range(2))
    assert one == two


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("a lime green ring", {"colour": "lime", "shape": "ring"}),
        ("a green ball on the left going up", {"colour": "green", "shape": "circle", "place": "left", "motion": "up"}),
        ("a big pink star on a dark blue background", {"colour": "magenta", "size": "large", "background": "navy"}),
        ("品红色的星星在左侧向右移动", {"colour": "magenta", "place": "left", "motion": "right"}),
        ("an orange box bouncing to the left", {"colour": "orange", "motion": "bounce", "drift": "left"}),
        ("a ring falls <sfx>a metal ring at each beat</sfx>", {"shape": "ring", "material": "metal", "motion": "down"}),
        ("no words of this world", {}),
    ],
)
def test_free_prompts_are_read_by_their_words(text, stated):
    found = parse(text)
    assert {name: getattr(found, name) for name in stated} == stated
    if not stated:
        assert all(getattr(found, field.name) is None for field in fields(Facts))


@pytest.mark.parametrize(
    ("arguments", "flags", "says"),
    [
        (("poem", "en"), {}, "caption kind must be one of short, long, structured, got 'poem'"),
        (("short", "fr"), {}, "caption language must be one of en, zh, got 'fr'"),
        (("short", "en"), {"silent": True, "audio_only": True}, "choose one"),
    ],
)
def test_what_captions_cannot_be_is_refused(arguments, flags, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        caption(SCENES[0], *arguments, np.random.default_rng(0), **flags)
