"""Several sounds in one picture: each has its own region, and where there is none the picture follows them all."""

from __future__ import annotations

import torch
from torch import Tensor

from sky4.conditioning.voices import Voice, voiced
from sky4.diffusion.guidance import Prompt
from sky4.diffusion.sampler import State, Times


def follows(state: State, times: Times, prompts: tuple[Prompt, ...], *, exchange: bool) -> State:
    """Every cell moves by the sum of what is heard."""
    video, audio = state
    assert audio is not None
    return None if video is None else torch.ones_like(video) * audio.sum((1, 2))[:, None, None, None, None], None


def region(*columns: float) -> Tensor:
    return torch.tensor(columns)[None, None, None, None].expand(1, 1, 1, 2, len(columns))


def test_each_region_follows_its_own_voice_and_the_rest_all_of_them() -> None:
    video, all_ = torch.zeros(2, 3, 4, 2, 3), torch.full((2, 5, 1), 1.0)
    voices = (Voice(torch.full((1, 5, 1), 2.0), region(1, 0, 0)), Voice(torch.full((1, 5, 1), 4.0), region(0, 0, 0.5)))
    made, heard = voiced(follows, voices)((video, all_), (0.5, 1.0), ("positive", "negative"), exchange=True)
    assert heard is None
    assert made is not None
    assert made.shape == video.shape
    for column, expected in enumerate((10.0, 5.0, 0.5 * 5 + 0.5 * 20)):
        assert torch.allclose(made[..., column], torch.tensor(expected))


def test_without_voices_the_model_is_asked_once_and_as_it_is() -> None:
    assert voiced(follows, ()) is follows


def test_a_sound_alone_has_no_regions() -> None:
    state = (None, torch.ones(1, 5, 1))
    voice = Voice(torch.ones(1, 5, 1), region(1))
    assert voiced(follows, (voice,))(state, (1.0, 0.5), ("positive",), exchange=True) == (None, None)
