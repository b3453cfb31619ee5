"""Patches and positions: where every token lies (model.md section 4)."""

from fractions import Fraction

import pytest
import torch
from torch.nn.functional import conv3d

from sky4.conditioning.tokens import (
    audio_positions,
    audio_reference_positions,
    keyframe_positions,
    next_segment_start,
    patchify_video,
    reference_positions,
    unpatchify_video,
    video_positions,
)


def latents(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("shape", [(1, 1, 1, 2, 2), (2, 5, 3, 4, 6)])
def test_unpatchify_undoes_patchify(shape: tuple[int, ...], patch: int) -> None:
    x = latents(*shape)
    tokens = patchify_video(x, patch)
    assert tokens.shape == (shape[0], shape[2] * shape[3] * shape[4] // patch**2, shape[1] * patch**2)
    assert torch.equal(unpatchify_video(tokens, shape, patch), x)


def test_a_linear_layer_on_tokens_is_a_patch_convolution() -> None:
    x, weight = latents(2, 5, 3, 4, 6).double(), latents(7, 5, 1, 2, 2).double()
    by_convolution = conv3d(x, weight, stride=(1, 2, 2)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patchify_video(x) @ weight.flatten(1).T, by_convolution)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="3x4 must be a multiple of the patch 2"):
        patchify_video(latents(1, 1, 1, 3, 4))
    with pytest.raises(ValueError, match="5 tokens of 8 channels do not fill 1 frames of 4x4"):
        unpatchify_video(latents(1, 5, 8), (1, 4, 4))


def test_video_tokens_lie_at_their_indices_time_slowest() -> None:
    expected = [(j, y, x) for j in range(3) for y in range(2) for x in range(4)]
    assert video_positions(3, 2, 4).tolist() == [[float(v) for v in place] for place in expected]


def test_tokens_and_positions_run_in_the_same_order() -> None:
    places = video_positions(3, 2, 4).reshape(3, 2, 4, 3).permute(3, 0, 1, 2)[None]  # a clip that shows its positions
    assert torch.equal(patchify_video(places, 1)[0], video_positions(3, 2, 4))


def test_five_seconds_of_sound_lie_on_the_published_scale() -> None:
    times = audio_positions(218, Fraction(21, 218))
    assert times.shape == (218, 3)
    assert not times[:, 1:].any()
    assert times[:, 0].tolist() == pytest.approx([a * 21 / 218 for a in range(218)], rel=1e-7)
    assert float(times[1, 0]) == pytest.approx(0.09633, abs=5e-6)
    assert float(times[-1, 0]) < 21 <= float(times[-1, 0]) + 0.0964


def test_video_references_end_just_before_time_zero_and_keep_their_place() -> None:
    places = reference_positions(3, 2, 2).reshape(3, 4, 3)
    assert places[:, 0, 0].tolist() == [-3.0, -2.0, -1.0]
    assert torch.equal(places[..., 1:], video_positions(3, 2, 2).reshape(3, 4, 3)[..., 1:])


def test_audio_references_lie_on_the_scale_before_zero() -> None:
    times = audio_reference_positions(43, Fraction(21, 218))[:, 0]
    assert times.tolist() == pytest.approx([(-43 + i) * 21 / 218 for i in range(43)], rel=1e-7)


def test_keyframes_lie_at_their_frame_on_the_low_grids_coordinates() -> None:
    places = keyframe_positions((0, 20), (68, 120), (17, 40)).reshape(2, 68, 120, 3)
    assert places[:, 0, 0, 0].tolist() == [0.0, 20.0]
    assert places[0, :, 0, 1].tolist() == pytest.approx([y * 17 / 68 for y in range(68)])
    assert places[1, 3, :, 2].tolist() == pytest.approx([x * 40 / 120 for x in range(120)])


def test_a_keyframe_of_the_low_grids_size_lies_on_its_frame() -> None:
    assert torch.equal(keyframe_positions((2,), (4, 6), (4, 6)), video_positions(3, 4, 6)[48:])


def test_segments_share_one_running_time_axis() -> None:
    second = next_segment_start(0.0, 21)
    third = next_segment_start(second, 13, shot_switch=True)
    assert (second, third) == (21.0, 35.0)
    assert torch.equal(video_positions(21, 1, 1, start=second)[:, 0], torch.arange(21.0, 42.0))
    assert audio_positions(218, Fraction(21, 218), start=second)[0, 0] == 21.0
    assert keyframe_positions((4,), (1, 1), (1, 1), start=third)[0, 0] == 39.0


def test_long_clips_keep_float32_exact_indices() -> None:
    assert torch.equal(video_positions(121, 1, 1, start=100000.0)[:, 0], torch.arange(100000.0, 100121.0))
