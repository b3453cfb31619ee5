"""A clip extended by another shot: the gap on the time axis, what is kept, and what no longer goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sky4.conditioning import ShotSwitch
from sky4.conditioning.tokens import audio_positions, video_positions
from sky4.encoders import load_video_codec
from sky4.encoders.another_shot import decoded_alone, encoded_alone
from sky4.errors import RequestError
from sky4.geometry import ClipGeometry
from sky4.pipeline.model_folder import BUNDLED, ModelFolder
from sky4.pipeline.request import Canvas, ClipRequest, Segments, Source
from sky4.pipeline.segments import plan, switch_of
from sky4.pipeline.windows import MadeWindow
from sky4.train.story_batches import story_of_two
from sky4.world.render import render_video

GEOMETRY = ClipGeometry(width=64, height=64, frames=33, spatial_compression=16, patch=1)


def extension(given: int, total: int, window: int, overlap: int, transition: str = "cut-in") -> ClipRequest:
    return ClipRequest(
        prompt="a circle",
        width=64,
        height=64,
        frames=total,
        fps=Fraction(16),
        steps=1,
        guidance=1.0,
        audio_guidance=1.0,
        shift=1.0,
        sources=(Source(Path("film.mkv"), "film.mkv", frames=given),),
        canvas=Canvas(64, 64),
        segments=Segments(window, overlap, transition=transition),  # type: ignore[arg-type]
    )


def test_the_first_window_holds_the_switch_where_it_stops_keeping() -> None:
    first, *others = plan(extension(40, 90, 33, 9), GEOMETRY)
    assert (first.switch, first.keeps, first.begins_a_shot, first.time) == (9, 9, True, 0)
    assert [window.switch for window in others] == [None] * len(others)
    assert [window.time for window in others] == [1 + 6 * (n + 1) for n in range(len(others))]  # 24 frames each, a gap


def test_a_switch_may_still_lie_in_what_the_second_window_keeps() -> None:
    first, second, third = plan(extension(40, 80, 33, 17), GEOMETRY)[:3]
    assert (first.switch, second.switch, third.switch) == (17, 1, None)
    assert (second.begins_a_shot, third.begins_a_shot) == (False, False)
    assert [first.time, second.time, third.time] == [0, 4, 9]


def test_without_a_transition_windows_are_what_they_were() -> None:
    plain, switched = (plan(extension(40, 90, 33, 9, kind), GEOMETRY) for kind in ("none", "cut-away"))
    assert [replace(one, switch=None, time=0) for one in switched] == [replace(one, time=0) for one in plain]
    assert switch_of(extension(40, 90, 33, 9, "none")) is None
    assert switch_of(extension(40, 90, 33, 9)) == 40


def test_both_towers_leave_the_gap_at_the_same_moment() -> None:
    switch = ShotSwitch.at(GEOMETRY, 17)
    assert switch.frame == 5
    shifted, plain = (video_positions(9, 4, 4, start=3.0, switch=s)[:, 0] for s in (switch, None))
    assert torch.equal(shifted - plain, torch.tensor([0.0] * 5 + [1.0] * 4).repeat_interleave(16))
    scale = GEOMETRY.audio_rope_scale
    heard, before = (audio_positions(GEOMETRY.audio_tokens, scale, switch=s)[:, 0] for s in (switch, None))
    first = int(torch.nonzero(heard - before > 0.5)[0, 0])
    # token a begins at a hop of 1024 samples: the first that begins no earlier than frame 17
    assert (first - 1) * 1024 / 44100 < 17 / 16 <= first * 1024 / 44100
    assert torch.allclose(heard[first:] - before[first:], torch.ones(len(heard) - first))


@pytest.mark.parametrize("frame", [0, 3, 33])
def test_a_switch_inside_a_latent_frame_is_refused(frame: int) -> None:
    with pytest.raises(ValueError, match=r"a shot begins with frame 4n \+ 1 of the 33"):
        ShotSwitch.at(GEOMETRY, frame)


def test_a_transition_wants_a_clip_before_it() -> None:
    with pytest.raises(RequestError, match="is for what follows a clip; drop --backward"):
        Segments(33, 9, backward=True, transition="cut-in")
    with pytest.raises(RequestError, match="--transition cut-up is unknown; choose one of none, cut-in"):
        Segments(33, 9, transition="cut-up")  # type: ignore[arg-type]


def test_a_request_of_before_reads_as_one_without_a_transition() -> None:
    request = extension(40, 90, 33, 9)
    values = request.to_dict()
    assert ClipRequest.from_dict(values).segments == request.segments
    del values["segments"]["transition"]
    again = ClipRequest.from_dict(values).segments
    assert again is not None
    assert again.transition == "none"


class Remembering:
    """A causal codec: a still's latent is half of what it shows and makes one frame; each later one makes four, which
    show a quarter of what was shown before."""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        assert pixels.shape[2] == 1
        return pixels[:, :1] * 100 / 2

    def decode(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        shown = 2 * latents[:, :, :1] / 100
        yield shown.expand(1, 3, 1, 1, 1)
        for frame in range(1, latents.shape[2]):
            shown = 0.75 * latents[:, :, frame : frame + 1] / 100 + 0.25 * shown
            yield shown.expand(1, 3, 4, 1, 1)


@pytest.mark.parametrize(("rate", "apart"), [(1, True), (2, False)])
def test_another_shot_is_decoded_without_the_memory_of_the_one_before(rate: int, apart: bool) -> None:
    window = plan(extension(40, 90, 33, 9), GEOMETRY)[0]
    components: Any = SimpleNamespace(video_codec=Remembering(), folder=SimpleNamespace(temporal_compression=4))
    latents = 50 * torch.ones(1, 1, 8 * rate + 1, 1, 1)

    def frames(before: float) -> np.ndarray:
        latents[:, :, : 2 * rate + 1] = before
        made = MadeWindow(window, (latents, None), rate=rate)
        return np.concatenate(list(made.frames(components, 0, 32 * rate + 1)))[:, 0, 0, 0]

    some, others = frames(0.0), frames(20.0)
    assert len(some) == 32 * rate + 1
    assert (some[9 * rate :] == others[9 * rate :]).all() == apart
    if apart:
        assert np.abs(some[9:] - 1.5 * 127.5).max() <= 1.5  # from its first frame on, which no still's latent leads
        assert (some[:9] != others[:9]).all()


def test_a_shot_decoded_by_itself_begins_in_its_own_colours() -> None:
    """The bundled codec: behind its own first latent, a shot's first frame is far off."""
    codec = load_video_codec(str(ModelFolder.read(BUNDLED).path / "video_vae"), "cpu", torch.float32)
    story = story_of_two(5, 0, GEOMETRY, 3)
    shown = render_video([story], 33, 16, 64)[:, :, 17:]
    held = codec.encode(torch.cat((shown[:, :, :1], shown), dim=2))
    latents = encoded_alone(shown, codec)
    assert torch.equal(latents, held[:, :, 1:])

    def error(made: torch.Tensor) -> float:
        return float((made[:, :, 0] - shown[:, :, 0]).square().mean())

    best, alone = (torch.cat(list(chunks), dim=2) for chunks in (codec.decode(held), decoded_alone(latents, codec)))
    behind_itself = torch.cat(list(codec.decode(torch.cat((latents[:, :, :1], latents), dim=2))), dim=2)[:, :, 1:]
    assert alone.shape == shown.shape
    assert error(alone) < 0.75 * error(behind_itself)
    assert error(alone) < 2.5 * error(best[:, :, 1:])
