"""Faults of prompts: where they are and how they read."""

import pytest

from sky4.errors import RequestError
from sky4.prompting import PromptError, check_prompt, require_clean


def faults(prompt: str, *names: str) -> list[tuple[int, str]]:
    return [(fault.column, fault.message) for fault in check_prompt(prompt, names)]


@pytest.mark.parametrize(
    ("prompt", "column", "message"),
    [
        ("a <sfz>bang</sfx>", 3, "unknown tag <sfz>; did you mean <sfx>?"),
        ("a <SFX>bang", 3, "unknown tag <SFX>; did you mean <sfx>?"),
        ("a <qqq>", 3, "unknown tag <qqq>; known are <text>, <sfx>, <dialogue>, <singing>, <bgm>"),
        ("a <sfx>bang", 3, "<sfx> is never closed; add </sfx>"),
        ("bang</sfx>", 5, "</sfx> closes nothing; put <sfx> before it or remove it"),
        ("<sfx>a <bgm>b</bgm></sfx>", 8, "<bgm> lies inside <sfx>; close </sfx> before it"),
        ("<sfx>a <sfx>b</sfx></sfx>", 8, "<sfx> lies inside <sfx>; close </sfx> before it"),
        ("a <sfx hum</sfx>", 3, "the tag <sfx lacks its '>'; write <sfx>"),
        ("<sfx>hum</sfx a", 9, "the tag </sfx lacks its '>'; write </sfx>"),
        ("球＜sfx＞鼓＜/sfx＞", 2, "＜sfx＞ is in full-width brackets; write <sfx>"),
        ("a <sfx/>", 3, "<sfx/> holds nothing; write <sfx>...</sfx>"),
        ("a <sfx> </sfx>", 3, "<sfx> is empty; fill it or remove it"),
        ("see @cat run", 5, "no reference is named @cat; add --ref cat=PATH"),
        ("红球像@image_1一样", 4, "no reference is named @image_1; add --ref image_1=PATH"),
        ("  ", 1, "the prompt is empty; describe the clip"),
    ],
)
def test_each_fault_is_found_at_its_column(prompt: str, column: int, message: str) -> None:
    assert faults(prompt)[0] == (column, message)


def test_one_slip_is_reported_once() -> None:
    for prompt in ("a <sfx hum</sfx> b", "<sfx>hum</sfx a", "<sfx>a <bgm>b</bgm> c</sfx>", "a <sfx>bang", "bang</sfx>"):
        assert len(faults(prompt)) == 1, prompt


def test_an_unresolved_name_suggests_the_nearest_of_those_offered() -> None:
    assert faults("@actor-0 and @Actor-0", "Actor-0") == [(1, "no reference is named @actor-0; did you mean @Actor-0?")]
    assert faults("@zebra and @Actor-0", "Actor-0")[0][1] == "no reference is named @zebra; there are @Actor-0"


def test_a_crossed_pair_names_the_inner_tag_as_nested_and_unclosed() -> None:
    messages = [message for _, message in faults("<sfx>a <bgm>b</sfx>")]
    assert messages == ["<bgm> lies inside <sfx>; close </sfx> before it", "<bgm> is never closed; add </bgm>"]


def test_several_faults_come_in_the_order_of_the_prompt() -> None:
    assert [column for column, _ in faults("@a <sfx>b @c </bgm>")] == [1, 4, 11, 14]


def test_an_unused_reference_is_a_warning_that_does_not_stop() -> None:
    found = check_prompt("a cat", ["image_1"])
    assert [(fault.severity, fault.column) for fault in found] == [("warning", 6)]
    assert found[0].message == "@image_1 is not mentioned; write it where it belongs"
    assert str(require_clean("a cat", ["image_1"])) == "a cat"


def test_clean_prompts_have_no_faults() -> None:
    assert not check_prompt("a@b.com <sfx>bang</sfx> @image_1 <dialogue>你好</dialogue>", ["image_1"])


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_columns_count_from_the_line_they_are_in(newline: str) -> None:
    fault = check_prompt(f"one{newline}two @cat")[0]
    assert (fault.line, fault.column) == (2, 5)
    assert str(fault).startswith("line 2, column 5: ")
    assert check_prompt(f"one{newline}@cat")[0].column == 1


def test_carets_stand_under_the_fault() -> None:
    prompt = "a red ball <sfz>bang</sfz>"
    assert check_prompt(prompt)[0].render(prompt) == (
        "error: column 12: unknown tag <sfz>; did you mean <sfx>?\n  a red ball <sfz>bang</sfz>\n             ^^^^^"
    )


def test_carets_stand_under_the_fault_after_wide_characters() -> None:
    prompt = "红球<sfx>鼓"
    assert check_prompt(prompt)[0].render(prompt).splitlines()[1:] == ["  红球<sfx>鼓", "      ^^^^^"]


@pytest.mark.parametrize("word", ["long words ", "很长的话"])
def test_long_prompts_are_cut_to_the_neighbourhood_of_the_fault(word: str) -> None:
    prompt = word * 30 + " @cat " + word * 30
    _, line, carets = check_prompt(prompt)[0].render(prompt).splitlines()
    assert line.startswith("  …")
    assert line.endswith("…")
    assert len(line) <= 80
    assert "@cat" in line
    assert carets.strip() == "^^^^"
    if word.isascii():
        assert carets.index("^") == line.index("@cat")


def test_require_clean_raises_a_request_error_with_the_first_place_and_all_faults() -> None:
    with pytest.raises(RequestError) as caught:
        require_clean("a <sfz>b @cat")
    assert str(caught.value) == "--prompt has a fault at column 3: unknown tag <sfz>; did you mean <sfx>? (and 1 more)"
    assert isinstance(caught.value, PromptError)
    assert len(caught.value.faults) == 2
    assert caught.value.render().count("^") == 5 + 4
