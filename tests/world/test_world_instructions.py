"""Instructions: whole sentences that name exactly what is shown, and say what is asked for."""

import re

import numpy as np
import pytest

from sky4.prompting import check_prompt, require_clean
from sky4.world.families import ROWS, TASK_ROWS, VIDEOS, Family, TaskRow, sample_family
from sky4.world.instructions import TEMPLATES, TEXTURE_WORDS, WORDS, instruction, take_caption
from sky4.world.lexicon import LANGUAGES, VOCABULARY, Language
from sky4.world.vocabulary import BACKGROUNDS, CAMERAS, LIGHTS, OVERLAYS, SCENERIES, STYLES, TEXTURES, WEATHERS

COUNT = 60
SOURCES = (("base",), ("overlay",))  # one video to be changed: naming it is left to the user


@pytest.fixture(scope="module")
def families() -> list[Family]:
    return [sample_family(3, index) for index in range(COUNT)]


def write(family: Family, row: TaskRow, language: Language, seed: int = 0) -> str:
    return instruction(family, row, language, np.random.default_rng([seed, family.index]))


def names_of(row: TaskRow) -> list[str]:
    """By the kinds of what is shown, in prompt order."""
    return [
        "audio_1" if n.startswith("hit:") else "image_1" if n.startswith("still:") else "video_1" for n in row.shown
    ]


def whole(text: str, language: Language) -> None:
    assert not re.search(r"[{}]|None|\s\s|\(\)", text), text
    assert text == text.strip(), text
    assert text, text
    if language == "en":
        assert text.isascii(), text
    else:
        assert not re.search(r"[a-z]", re.sub(r"@\w+?_1|</?\w+>", "", text)), text


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", ROWS)
def test_an_instruction_is_whole_clean_and_names_what_is_shown(
    families: list[Family], name: str, language: Language
) -> None:
    row = ROWS[name]
    wanted, named = names_of(row), 0
    for family in families:
        text = write(family, row, language)
        whole(text, language)
        found = re.findall(r"@((?:image|video|audio)_\d)", text)
        if row.shown in SOURCES:
            named += found == wanted
            assert found in ([], wanted), text
        else:
            assert found == wanted, text  # each once: the picture before the video, the sound last
        assert text.count("@") == len(found), text
        require_clean(text, wanted)
        faults = [fault for fault in check_prompt(text, wanted) if found or row.shown not in SOURCES]
        assert not faults, text
    if row.shown in SOURCES:
        assert 0.2 * COUNT < named < 0.65 * COUNT


def test_an_instruction_depends_on_its_random_numbers_alone(families: list[Family]) -> None:
    for row in TASK_ROWS:
        texts = [[write(family, row, "en", seed) for family in families[:10]] for seed in (1, 1, 2)]
        assert texts[0] == texts[1]
    assert any(write(families[0], row, "en", 1) != write(families[0], row, "en", 2) for row in TASK_ROWS)


@pytest.mark.parametrize("language", LANGUAGES)
def test_sound_is_said_of_what_has_it(families: list[Family], language: Language) -> None:
    for row in TASK_ROWS:
        said = 0
        for family in families:
            text = write(family, row, language)
            spans = re.findall(r"<sfx>(.*?)</sfx>", text)
            said += len(spans)
            if spans and "audio_1" not in names_of(row):
                material = (family.subject if row.sound == "base" else family.newcomer).material
                assert any(word in spans[0] for word in VOCABULARY[language]["material"][material]), text
        if row.sound is None:
            assert said == 0
        elif "audio_1" in names_of(row):
            assert said == COUNT
        else:
            assert 0.5 * COUNT < said < 0.9 * COUNT, row.name


def stated(family: Family, row: TaskRow) -> tuple[str, str]:
    """(the field, the value) that the row's instruction cannot leave out."""
    take = family.takes[row.target]
    if row.name in ("background", "inpaint_background"):
        return "behind", take.backdrop
    if row.name == "removal":
        overlay = family.takes["overlay"].overlay
        assert overlay is not None
        return "word", overlay.kind
    if row.name == "scene":
        return "word", take.weather if take.weather != "clear" else take.light
    return "word", {"style": take.style, "camera": take.camera}[row.name]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", ["background", "inpaint_background", "removal", "scene", "style", "camera"])
def test_an_instruction_says_what_its_variant_changes(families: list[Family], name: str, language: Language) -> None:
    for family in families:
        field, value = stated(family, ROWS[name])
        words = VOCABULARY[language]["background"] if field == "behind" and value in BACKGROUNDS else None
        word = words[value][0] if words else WORDS[language][value]
        assert word in write(family, ROWS[name], language)


@pytest.mark.parametrize("language", LANGUAGES)
def test_things_are_called_by_their_colour_and_shape(families: list[Family], language: Language) -> None:
    words = VOCABULARY[language]
    for family in families:
        for name, thing in (("subject_replace", family.newcomer), ("subject_count", family.bystander)):
            text = write(family, ROWS[name], language)
            assert words["colour"][thing.colour][0] in text, text
            assert any(word in text for word in words["shape"][thing.shape]), text
        changed = family.takes["attribute"].things[-1]
        text = write(family, ROWS["attribute"], language)
        assert words["colour"][changed.colour][0] in text, text
        if changed.texture not in ("solid", family.subject.texture):
            assert TEXTURE_WORDS[language][changed.texture] in text, text
        remove = {"en": r"remove|delete|take", "zh": "去掉"}[language]
        assert bool(re.search(remove, write(family, ROWS["subject_count"], language))) == family.has_bystander


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", VIDEOS)
def test_a_take_s_caption_is_whole_and_clean(families: list[Family], name: str, language: Language) -> None:
    for family in families[:25]:
        take = family.takes[name]
        text, silent = (
            take_caption(take, language, np.random.default_rng(family.index), silent=silent) for silent in (False, True)
        )
        for made in (text, silent):
            whole(re.sub("<text>.*?</text>", "", made).replace("  ", " ").replace(" ,", ",").strip(), language)
            require_clean(made)
        assert ("<sfx>" in text) == any(thing.motion != "static" for thing in take.things)
        assert "<sfx>" not in silent
        for value, plain in (
            (take.style, "flat"),
            (take.camera, "static"),
            (take.weather, "clear"),
            (take.light, "day"),
        ):
            assert value == plain or WORDS[language][value] in text, text
        if take.overlay is not None and take.overlay.text:
            assert f"<text>{take.overlay.text}</text>" in text


def test_every_word_of_the_world_is_in_both_languages() -> None:
    said = {*SCENERIES, *CAMERAS, *WEATHERS[1:], *LIGHTS[1:], *STYLES[1:], *OVERLAYS}
    for language in LANGUAGES:
        assert said <= set(WORDS[language])
        assert set(TEXTURE_WORDS[language]) == set(TEXTURES[1:])
        keys = {name for name in ROWS if name not in ("subject_count", "scene")}
        assert set(TEMPLATES[language]) == keys | {"add", "delete", "weather", "light", "night"}
        assert all(TEMPLATES[language].values())
    assert len(set(WORDS["zh"].values())) == len(WORDS["zh"])
