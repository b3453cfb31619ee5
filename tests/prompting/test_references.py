"""--ref NAME=PATH: what is accepted, and how refusals read."""

from pathlib import Path

import pytest

from sky4.errors import RequestError
from sky4.prompting import ReferenceFile, in_prompt_order, parse, resolve_references


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cat.png", "walk.MP4", "voice.wav", "notes.txt", "bare", "a=b.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "clips.mp4").mkdir()
    return tmp_path


def refusal(*values: str) -> str:
    with pytest.raises(RequestError) as caught:
        resolve_references(values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_kinds_follow_the_suffix_and_order_is_kept(folder: Path) -> None:
    values = [f"image_1={folder}/cat.png", f"Actor-0={folder}/walk.MP4", f"Audio-0={folder}/voice.wav"]
    assert resolve_references(values) == (
        ReferenceFile("image_1", folder / "cat.png", "image"),
        ReferenceFile("Actor-0", folder / "walk.MP4", "video"),
        ReferenceFile("Audio-0", folder / "voice.wav", "audio"),
    )


def test_a_path_may_hold_an_equals_sign(folder: Path) -> None:
    assert resolve_references([f"cat={folder}/a=b.jpg"])[0].path == folder / "a=b.jpg"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("cat", "expected NAME=PATH, for example image_1=photo.png"),
        ("cat=", "expected NAME=PATH"),
        ("={0}/cat.png", "the empty text is no name for a reference; use Latin letters"),
        ("@cat={0}/cat.png", "@cat is no name for a reference; write cat=..."),
        ("my cat={0}/cat.png", "my cat is no name"),
        ("猫={0}/cat.png", "猫 is no name"),
        ("cat={0}/dog.png", "{0}/dog.png does not exist; give the path"),
        ("cat={0}/clips.mp4", "{0}/clips.mp4 is a folder"),
        ("cat={0}/notes.txt", "the suffix .txt is unknown; use one of .png"),
        ("cat={0}/bare", "the suffix (none) is unknown"),
        ("image_1={0}/voice.wav", "the name image_1 promises image, not audio; call it audio_1"),
        ("Audio-0={0}/cat.png", "the name Audio-0 promises audio, not image; call it image_0"),
        ("Actor-0={0}/voice.wav", "the name Actor-0 promises image or video, not audio; call it audio_0"),
    ],
)
def test_a_refusal_names_the_flag_the_value_and_the_remedy(folder: Path, value: str, reason: str) -> None:
    value = value.format(folder)
    message = refusal(value)
    assert message.startswith(f"--ref {value}: ")
    assert reason.format(folder) in message


def test_a_name_given_twice_is_refused(folder: Path) -> None:
    assert "the name cat is given twice" in refusal(f"cat={folder}/cat.png", f"cat={folder}/walk.MP4")


def test_references_take_the_order_of_their_first_mention(folder: Path) -> None:
    offered = resolve_references([f"{name}={folder}/cat.png" for name in ("a", "b", "c", "d")])
    tree, _ = parse("@c walks, @a and @c wait")
    assert [reference.name for reference in in_prompt_order(offered, tree)] == ["c", "a", "b", "d"]
