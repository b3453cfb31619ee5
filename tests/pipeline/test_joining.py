"""Seams: colours that meet, sound that is faded without touching what was given, lengths exact to the sample."""

from __future__ import annotations

import numpy as np
import pytest

from sky4.pipeline.joining import ColourMatch, SoundPiece, joined


def noise(samples: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2, samples)).astype(np.float32) * 0.1


def test_a_match_gives_the_mean_and_deviation_of_what_was_kept() -> None:
    kept = np.random.default_rng(0).normal((90, 120, 60), (20, 30, 10), (5, 40, 40, 3)).clip(0, 255).astype(np.uint8)
    made = np.rint(kept * np.array([0.8, 1.1, 1.0]) + np.array([25, -20, 8])).clip(0, 255).astype(np.uint8)
    matched = ColourMatch.between(made, kept).apply(made, [1.0] * 5)
    assert np.abs(matched.mean(axis=(0, 1, 2)) - kept.mean(axis=(0, 1, 2))).max() < 0.5
    assert np.abs(matched.std(axis=(0, 1, 2)) - kept.std(axis=(0, 1, 2))).max() < 0.7


def test_strength_0_leaves_a_frame_alone_and_half_goes_half_the_way() -> None:
    made = np.full((3, 4, 4, 3), 100, np.uint8)
    shifted = ColourMatch(gain=(1.0, 1.0, 1.0), offset=(20.0, 0.0, -40.0)).apply(made, [0.0, 0.5, 1.0])
    assert shifted[:, 0, 0].tolist() == [[100, 100, 100], [110, 100, 80], [120, 100, 60]]


def test_a_window_without_contrast_is_not_blown_up() -> None:
    kept = np.random.default_rng(0).integers(0, 255, (2, 8, 8, 3), dtype=np.uint8)
    match = ColourMatch.between(np.full_like(kept, 30), kept)
    assert max(match.gain) <= 1.5


def test_equal_frames_match_to_themselves() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (2, 8, 8, 3), dtype=np.uint8)
    assert np.array_equal(ColourMatch.between(frames, frames).apply(frames, [1.0, 1.0]), frames)


def test_forward_windows_are_faded_ahead_of_the_seam_with_equal_power() -> None:
    first = SoundPiece(noise(1000, 1), 0, 0, 1000)
    second = SoundPiece(noise(1000, 2), 800, 1000, 1800)
    wave = joined([first, second], 1800, 100)
    assert wave.shape == (2, 1800)
    assert np.array_equal(wave[:, :900], first.wave[:, :900])
    assert np.array_equal(wave[:, 1000:], second.wave[:, 200:])
    angle = (np.arange(100) + 0.5) / 100 * np.pi / 2
    faded = np.cos(angle) * first.wave[:, 900:1000] + np.sin(angle) * second.wave[:, 100:200]
    assert np.allclose(wave[:, 900:1000], faded, atol=1e-6)


def test_backward_windows_are_faded_behind_the_seam() -> None:
    earlier = SoundPiece(noise(1000, 1), -200, 0, 600)  # it reaches 200 samples over the seam
    later = SoundPiece(noise(1000, 2), 600, 600, 1600)
    wave = joined([earlier, later], 1600, 100)
    assert np.array_equal(wave[:, :600], earlier.wave[:, 200:800])
    assert np.array_equal(wave[:, 700:], later.wave[:, 100:])
    assert not np.array_equal(wave[:, 600:700], later.wave[:, :100])


def test_the_silence_behind_the_last_whole_token_is_filled_by_the_next_window() -> None:
    first = SoundPiece(noise(950, 1), 0, 0, 1000)  # 50 samples short of its seam
    second = SoundPiece(noise(1000, 2), 800, 1000, 1800)
    wave = joined([first, second], 1800, 100)
    assert np.array_equal(wave[:, 950:1000], second.wave[:, 150:200])
    assert np.array_equal(wave[:, :850], first.wave[:, :850])


@pytest.mark.parametrize("given_first", [True, False])
def test_no_sample_of_a_given_sound_changes_and_the_seam_has_no_step(given_first: bool) -> None:
    ramp = np.tile(np.linspace(0.1, 0.5, 1000, dtype=np.float32), (2, 1))
    made = np.full((2, 1200), -0.4, np.float32)
    if given_first:
        pieces = [SoundPiece(ramp, 0, 0, 1000, given=True), SoundPiece(made, 800, 1000, 2000)]
        wave, own, seam = joined(pieces, 2000, 200), slice(0, 1000), 1000
    else:
        pieces = [SoundPiece(made, 0, 0, 1000), SoundPiece(ramp, 1000, 1000, 2000, given=True)]
        wave, own, seam = joined(pieces, 2000, 200), slice(1000, 2000), 1000
    assert np.array_equal(wave[:, own], ramp)
    assert np.abs(wave[:, seam] - wave[:, seam - 1]).max() < 0.01  # the plain joint steps by 0.5 to 0.9
    assert np.allclose(wave[:, -1] if given_first else wave[:, 0], -0.4)


def test_one_piece_is_left_alone_and_filled_with_silence() -> None:
    piece = SoundPiece(noise(900, 1), 0, 0, 1000)
    wave = joined([piece], 1000, 100)
    assert np.array_equal(wave[:, :900], piece.wave)
    assert not wave[:, 900:].any()
