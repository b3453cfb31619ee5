"""--keep-audio and --mix, as strings become a Soundtrack: what is made beside it, and what cannot be asked."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from sky4.errors import RequestError
from sky4.media import Soundtrack
from sky4cli.options import soundtrack_of
from tests.clips import Clips

HALF = Fraction(1, 2)


def test_a_kept_sound_leaves_the_picture_to_be_made(clips: Clips) -> None:
    source = clips("plain")
    assert soundtrack_of(source, HALF, False, None, "both") == (None, "both")
    assert soundtrack_of(source, HALF, True, None, "both") == (Soundtrack(source, HALF), "video")
    assert soundtrack_of(source, HALF, True, None, "video") == (Soundtrack(source, HALF), "video")
    assert soundtrack_of(source, HALF, False, 0.3, "both") == (Soundtrack(source, HALF, 0.3), "both")


@pytest.mark.parametrize(
    ("name", "keep", "mix", "words"),
    [
        ("plain", True, 0.3, "--keep-audio and --mix 0.3 are both given; drop --mix"),
        ("plain", False, 0.0, "--mix 0 adds nothing .*; use --keep-audio"),
        ("plain", False, -1.0, "--mix -1.0 is not a gain"),
        ("silent", True, None, "--keep-audio: '.*' holds no sound; drop --keep-audio"),
        ("silent", False, 0.3, "--mix: '.*' holds no sound; drop --mix"),
        ("truncated", True, None, "cannot be decoded"),
    ],
)
def test_what_cannot_be_kept_is_said(clips: Clips, name: str, keep: bool, mix: float | None, words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        soundtrack_of(clips(name), Fraction(0), keep, mix, "both")
    assert "\n" not in str(caught.value)
