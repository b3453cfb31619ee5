"""Angles of rotary embedding against the formulas of the design, written out anew."""

from __future__ import annotations

import math

import pytest
import torch

from sky4.conditioning.tokens import (
    audio_positions,
    audio_reference_positions,
    keyframe_positions,
    reference_positions,
    video_positions,
)
from sky4.geometry import ClipGeometry
from sky4.model.rope import angles, rotation, temporal, with_still
from sky4.ops.qk_norm_rope import qk_norm_rope

AXES, THETA = (4, 6, 6), 256.0
CLIP = ClipGeometry(width=64, height=48, frames=13)


def expected(time: float, y: float, x: float) -> list[float]:
    return [
        place / THETA ** (2 * j / channels)
        for place, channels in zip((time, y, x), AXES, strict=True)
        for j in range(channels // 2)
    ]


def test_video_tokens_turn_by_frame_row_and_column() -> None:
    frames, rows, columns = CLIP.grid
    found = angles(video_positions(frames, rows, columns), AXES, THETA).view(frames, rows, columns, -1)
    for j, y, x in ((0, 0, 0), (1, 2, 3), (3, 1, 0)):
        assert found[j, y, x].tolist() == pytest.approx(expected(j, y, x))


def test_audio_tokens_turn_by_their_share_of_the_video_and_not_in_space() -> None:
    found = angles(audio_positions(CLIP.audio_tokens, CLIP.audio_rope_scale), AXES, THETA)
    assert CLIP.audio_tokens == 34 and CLIP.latent_frames == 4
    for a in (0, 1, 33):
        assert found[a].tolist() == pytest.approx(expected(a * 4 / 34, 0, 0), rel=1e-6)


def test_references_turn_back_in_time() -> None:
    found = angles(reference_positions(2, 3, 4), AXES, THETA).view(2, 3, 4, -1)
    for i in range(2):
        assert found[i, 2, 1].tolist() == pytest.approx(expected(-2 + i, 2, 1))
    audio = angles(audio_reference_positions(5, CLIP.audio_rope_scale), AXES, THETA)
    for i in range(5):
        assert audio[i].tolist() == pytest.approx(expected((-5 + i) * 4 / 34, 0, 0), rel=1e-6)


def test_keyframes_turn_on_the_low_grid() -> None:
    found = angles(keyframe_positions([0, 3], (6, 8), (3, 4)), AXES, THETA).view(2, 6, 8, -1)
    assert found[1, 5, 6].tolist() == pytest.approx(expected(3, 5 * 3 / 6, 6 * 4 / 8))


def test_time_alone_forgets_the_place() -> None:
    positions = torch.tensor([[1.5, 2.0, 3.0]])
    assert angles(temporal(positions), AXES, THETA)[0].tolist() == pytest.approx(expected(1.5, 0, 0))


def test_interleaved_pairs_turn_as_plane_vectors() -> None:
    positions = torch.tensor([[2.0, 1.0, 3.0]])
    x = torch.zeros(1, 1, 1, 16)
    x[..., 0::2] = 1.0  # every pair is (1, 0), of the norm that RMSNorm leaves as sqrt(2)
    out = qk_norm_rope(x, torch.ones(16), rotation(positions, AXES, THETA), 0.0).flatten() / math.sqrt(2)
    for pair, angle in enumerate(expected(2.0, 1.0, 3.0)):
        assert out[2 * pair].item() == pytest.approx(math.cos(angle), abs=1e-6)
        assert out[2 * pair + 1].item() == pytest.approx(math.sin(angle), abs=1e-6)


def test_scores_depend_on_the_distance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 1, 16, generator=generator) for _ in range(2))
    ones = torch.ones(16)

    def score(at_q: list[float], at_k: list[float]) -> float:
        turned = [
            qk_norm_rope(x, ones, rotation(torch.tensor([at]), AXES, THETA), 1e-6) for x, at in ((q, at_q), (k, at_k))
        ]
        return float((turned[0] * turned[1]).sum())

    assert score([1.0, 2.0, 3.0], [-2.0, 0.5, 1.0]) == pytest.approx(score([4.0, 2.5, 5.0], [1.0, 1.0, 3.0]), abs=1e-5)


def test_tokens_without_a_position_stay_as_they_are() -> None:
    turn = with_still(rotation(video_positions(1, 1, 2), AXES, THETA), 3)
    assert turn.shape == (1, 5, 1, 8)
    assert torch.equal(turn[:, 2:], torch.ones(1, 3, 1, 8, dtype=torch.complex64))


def test_positions_may_differ_by_sample() -> None:
    positions = torch.stack([video_positions(1, 2, 2), video_positions(1, 2, 2, start=3.0)])
    each = [rotation(p, AXES, THETA) for p in positions]
    assert torch.equal(rotation(positions, AXES, THETA), torch.cat(each))
