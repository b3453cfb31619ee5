"""Key frames first: a long driven clip whose windows end on what each would end on had it begun with the portrait."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sky4.errors import RequestError
from sky4.media import write_clip
from sky4.pipeline.clip import Clip
from sky4.pipeline.components import Components
from sky4.pipeline.generate import generate_clip, generate_clips
from sky4.pipeline.request import ClipRequest, Segments, Source
from sky4.pipeline.segments import plan
from sky4.pipeline.states import ResumeFolder
from sky4.pipeline.validate import validate
from tests.pipeline.plain import PLAIN

RATE = 44100
LONG = replace(PLAIN, frames=29, outputs="video")  # three windows of 13 that keep 5


@pytest.fixture
def request_(tmp_path: Path) -> ClipRequest:
    wave = (0.2 * np.random.default_rng(0).standard_normal((2, 2 * RATE))).astype(np.float32).clip(-1, 1)
    write_clip(tmp_path / "a.wav", None, wave, fps=Fraction(16), recipe={})
    picture = np.random.default_rng(1).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "portrait.png")
    return replace(
        LONG,
        audio=tmp_path / "a.wav",
        sources=(Source(tmp_path / "portrait.png", "--image"),),
        segments=Segments(13, 5, anchored=True),
    )


def pictures(clip: Clip) -> np.ndarray:
    return np.concatenate(list(clip.frames()))


def test_the_plan_is_an_anchor_for_each_window_but_the_first_and_then_the_windows(
    components: Components, request_: ClipRequest
) -> None:
    windows = plan(request_, validate(request_, components.folder))
    assert [window.index for window in windows] == list(range(5))
    assert [window.anchor for window in windows] == [True, True, False, False, False]
    assert [window.ends_on for window in windows] == [None, None, None, 0, 1]
    assert [window.first for window in windows] == [8, 16, 0, 8, 16]
    assert [window.shown for window in windows] == [(0, 0), (0, 0), (0, 13), (5, 13), (5, 13)]
    chained = plan(replace(request_, segments=Segments(13, 5)), validate(request_, components.folder))
    assert [window.shown for window in chained] == [(0, 13), (5, 13), (5, 13)]


def test_anchors_begin_with_the_portrait_and_windows_end_on_them(components: Components, request_: ClipRequest) -> None:
    clip = generate_clip(request_, components)
    latents = [made.latents[0] for made in clip.windows]
    assert all(part is not None for part in latents)
    first = latents[2][:, :, :1]  # of the clip, which is the portrait
    for anchor in latents[:2]:
        assert torch.equal(anchor[:, :, :1], first)
    for anchor, window in zip(latents[:2], latents[3:], strict=True):
        assert torch.equal(window[:, :, -1:], anchor[:, :, -1:])
        assert not torch.equal(window[:, :, -2:-1], anchor[:, :, -2:-1])


def test_anchors_are_not_shown_and_not_heard(components: Components, request_: ClipRequest) -> None:
    clip = generate_clip(request_, components)
    assert clip.frame_count == 29
    assert pictures(clip).shape == (29, 32, 32, 3)
    assert clip.audio().shape == (2, round(Fraction(29, 16) * RATE))
    assert clip.seams == [13, 21]


def test_sound_and_noise_of_an_anchor_are_its_own_windows_and_its_own(
    components: Components, request_: ClipRequest
) -> None:
    clip = generate_clip(request_, components)
    heard = [made.latents[1] for made in clip.windows]
    assert torch.equal(heard[0], heard[3])
    assert torch.equal(heard[1], heard[4])
    assert not torch.equal(heard[0], heard[1])


@pytest.mark.parametrize("until", [1, 2, 3, 4])
def test_a_run_that_was_stopped_between_any_two_windows_goes_on_to_the_same_bits(
    components: Components, request_: ClipRequest, tmp_path: Path, until: int
) -> None:
    class Stopped(Exception):
        pass

    undisturbed = generate_clip(request_, components)
    begun: list[int] = []

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "conditions" and done == 0:
            begun.append(1)
            if len(begun) > until:
                raise Stopped

    with pytest.raises(Stopped):
        _all(generate_clips(request_, components, stop, ResumeFolder.open(tmp_path / "state", request_, components)))
    [resumed] = _all(
        generate_clips(request_, components, None, ResumeFolder.open(tmp_path / "state", request_, components))
    )
    assert resumed.checksums == undisturbed.checksums
    assert np.array_equal(pictures(resumed), pictures(undisturbed))


def _all(clips: Iterator[Clip]) -> list[Clip]:
    return list(clips)


def test_anchors_need_a_portrait_and_a_sound_and_one_shot(request_: ClipRequest) -> None:
    for change in ({"sources": ()}, {"audio": None}):
        with pytest.raises(RequestError, match="give --image too"):
            replace(request_, **change)
    with pytest.raises(RequestError, match="drop --anchors"):
        Segments(13, 5, backward=True, anchored=True)
