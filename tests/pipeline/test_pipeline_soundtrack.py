"""A clip over its source's own sound: packets copied while no audio tower runs, or made sound mixed in."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from sky4.errors import RequestError
from sky4.media import Soundtrack, read_audio, read_recipe
from sky4.pipeline.components import Components
from sky4.pipeline.generate import generate_clip
from sky4.pipeline.request import ClipRequest
from sky4.pipeline.validate import validate
from tests.clips import Clips
from tests.media.test_soundtrack import packets_of
from tests.pipeline.plain import PLAIN


def test_a_kept_sound_is_copied_and_none_is_made(components: Components, clips: Clips, tmp_path: Path) -> None:
    track = Soundtrack(clips("plain"), Fraction(1, 4))
    request = replace(PLAIN, outputs="video", soundtrack=track)
    clip = generate_clip(request, components)
    assert clip.latents[1] is None
    assert clip.checksums["video"] == generate_clip(replace(PLAIN, outputs="video"), components).checksums["video"]
    clip.save(tmp_path / "clip.mp4")
    kept, every = packets_of(tmp_path / "clip.mp4"), packets_of(clips("plain"))
    begin = every.index(kept[0])
    assert kept == every[begin : begin + len(kept)]
    recipe = read_recipe(tmp_path / "clip.mp4")
    assert ClipRequest.from_dict(recipe["request"]) == request
    assert list(recipe["inputs"]) == [str(clips("plain"))]


def test_a_mix_is_both(components: Components, clips: Clips, tmp_path: Path) -> None:
    clip = generate_clip(replace(PLAIN, soundtrack=Soundtrack(clips("plain"), mix=0.5)), components)
    clip.save(tmp_path / "clip.mkv")
    own, made, found = read_audio(clips("plain")), clip.audio(), read_audio(tmp_path / "clip.mkv")
    expected = own[:, : made.shape[1]] + 0.5 * made
    expected *= min(1.0, 0.98 / np.abs(expected).max())
    assert np.abs(found - expected).max() < 1e-3


@pytest.mark.parametrize(("name", "words"), [("silent", "holds no sound"), ("truncated", "cannot be decoded as sound")])
@pytest.mark.parametrize("mix", [0.0, 0.5])
def test_a_source_without_sound_is_refused_before_any_work(
    components: Components, clips: Clips, name: str, words: str, mix: float
) -> None:
    request = replace(PLAIN, outputs="both" if mix else "video", soundtrack=Soundtrack(clips(name), mix=mix))
    with pytest.raises(RequestError, match=words):
        validate(request, components.folder)
