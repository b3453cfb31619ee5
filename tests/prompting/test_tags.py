"""Reading structured prompts: the tree, and what is and is not a mention."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sky4.prompting.tags import TAGS, Mention, Prompt, Span, Text, parse

SHOT = "[Shot 1] @Actor-0 says <dialogue>ba mi sol</dialogue>@Audio-0 <bgm>slow loop</bgm>. <text>SALE 42</text>"


def clean(prompt: str) -> Prompt:
    tree, issues = parse(prompt)
    assert not issues
    return tree


def names(prompt: str, offered: tuple[str, ...] = ()) -> list[str]:
    return [mention.name for mention in parse(prompt, offered)[0].mentions()]


def test_the_tree_holds_words_spans_and_mentions_at_their_places() -> None:
    assert clean("a @image_1 <sfx>two hits</sfx>").parts == (
        Text("a ", 0),
        Mention("image_1", 2),
        Text(" ", 10),
        Span("sfx", (Text("two hits", 16),), 11),
    )


@pytest.mark.parametrize(
    "prompt", [SHOT, "", "plain", "5 < 6 > 2, I <3 you", "【镜头1】红球<sfx>两声鼓</sfx>，@Actor-0走过"]
)
def test_a_clean_prompt_is_written_back_as_it_was(prompt: str) -> None:
    assert str(clean(prompt)) == prompt


def test_spans_are_found_by_their_tag() -> None:
    tree = clean(SHOT + "<sfx>one</sfx><sfx>two</sfx>")
    assert tree.spans("sfx") == ("one", "two")
    assert tree.spans("dialogue") == ("ba mi sol",)
    assert tree.spans("singing") == ()


def test_mentions_come_in_prompt_order_with_their_repeats() -> None:
    assert names("@video_1 then @image_1 then @video_1 <dialogue>@Audio-0</dialogue>") == [
        "video_1",
        "image_1",
        "video_1",
        "Audio-0",
    ]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("write to ann.lee+x@example.com now", []),
        ("ann@mail.example.org", []),
        ("at 5 @ noon, @, @5, @@", []),
        ("让@Actor-0说话", ["Actor-0"]),
        ("像@image_1一样的猫，@image_2。", ["image_1", "image_2"]),
        ("(@image_1), '@image_2's hat', @image_3.", ["image_1", "image_2", "image_3"]),
        ("he stops.@Actor-0 speaks", ["Actor-0"]),
        ("</dialogue>@Audio-0", ["Audio-0"]),
        ("says@image_1.Then", ["image_1"]),
        ("red@image_1 here", ["image_1"]),
        ("ann@home", ["home"]),
        ("@my-red_cat2- runs", ["my-red_cat2"]),
        ("电邮cat@example.com，@cat", ["cat"]),
    ],
)
def test_an_at_sign_is_a_mention_unless_it_belongs_to_an_address(prompt: str, expected: list[str]) -> None:
    assert names(prompt) == expected


def test_an_offered_name_is_a_mention_even_where_it_could_be_an_address() -> None:
    assert names("like@cat.Then") == []
    assert names("like@cat.Then", ("cat",)) == ["cat"]


def test_writing_in_the_picture_may_hold_an_at_sign() -> None:
    tree = clean("a sign <text>find us @home</text> by @image_1")
    assert tree.spans("text") == ("find us @home",)
    assert [mention.name for mention in tree.mentions()] == ["image_1"]


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab<>/@ sfxtext-_1.，声＜＞\n", max_size=40))
def test_no_text_breaks_the_parser(prompt: str) -> None:
    tree, issues = parse(prompt)
    assert all(0 <= issue.offset < len(prompt) and issue.length > 0 for issue in issues)
    if not issues:
        assert "".join(str(tree).split()) == "".join(prompt.split())  # blanks inside a tag are not kept


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(["a ball ", "红球，", "@image_1 ", "@Actor-0 "]),
            st.builds(
                lambda tag, words: f"<{tag}>{words}</{tag}>", st.sampled_from(TAGS), st.sampled_from(["x", "声"])
            ),
        ),
        max_size=8,
    )
)
def test_well_formed_prompts_are_clean_and_round_trip(pieces: list[str]) -> None:
    prompt = "".join(pieces)
    assert str(clean(prompt)) == prompt
