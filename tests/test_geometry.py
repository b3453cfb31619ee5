"""Lengths of clips against the table of the design and against the codecs' own rules."""

from __future__ import annotations

from fractions import Fraction

import pytest

from sky4.geometry import ClipGeometry, frames_for


def test_the_five_second_clip_has_the_published_lengths() -> None:
    clip = ClipGeometry(width=1920, height=1088, frames=81)
    assert (clip.latent_frames, clip.latent_height, clip.latent_width) == (21, 136, 240)
    assert clip.grid == (21, 68, 120)
    assert clip.video_tokens == 171_360
    assert clip.audio_samples == 223_256
    assert clip.audio_tokens == 218
    assert clip.seconds == Fraction(81, 16)
    assert clip.audio_rope_scale == Fraction(21, 218)


def test_the_longest_clip_has_the_published_lengths() -> None:
    base = ClipGeometry(width=1920, height=1088, frames=frames_for(15, Fraction(16)))
    assert (base.frames, base.latent_frames, base.audio_tokens) == (241, 61, 648)
    refined = ClipGeometry(width=1920, height=1088, frames=481, fps=Fraction(32))
    assert refined.latent_frames == 121


def test_a_sixteenfold_codec_with_patch_two_makes_336_tokens_of_128_pixels() -> None:
    assert ClipGeometry(width=128, height=128, frames=81, spatial_compression=16).video_tokens == 336


def test_the_clock_of_seconds_places_every_token_at_its_true_time() -> None:
    clip = ClipGeometry(width=64, height=64, frames=81)
    per_second = clip.fps / clip.temporal_compression
    scale = clip.audio_rope_scale_for("seconds")
    assert scale == Fraction(1024, 44100) * per_second
    assert float(scale) == pytest.approx(0.0929, abs=5e-5)
    assert clip.audio_rope_scale_for("ratio") == clip.audio_rope_scale


def test_an_unknown_clock_is_refused() -> None:
    with pytest.raises(ValueError, match="ratio, seconds"):
        ClipGeometry(width=64, height=64, frames=81).audio_rope_scale_for("sundial")


def test_a_still_image_is_a_clip_of_one_latent_frame() -> None:
    still = ClipGeometry(width=64, height=64, frames=1)
    assert still.grid == (1, 4, 4)


def test_a_clip_shorter_than_one_audio_token_says_so_when_asked_for_its_scale() -> None:
    with pytest.raises(ValueError, match="shorter than one audio token"):
        _ = ClipGeometry(width=64, height=64, frames=1, fps=Fraction(60)).audio_rope_scale


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 100}, "multiple of 16 pixels .* got 100; nearest: 96 or 112"),
        ({"height": 5}, "height .* got 5; nearest: 16"),
        ({"height": 0}, "height .* got 0; nearest: 16"),
        ({"frames": 80}, r"4n \+ 1 .* got 80; nearest: 77 or 81"),
        ({"frames": 0}, "got 0; nearest: 1"),
        ({"fps": Fraction(0)}, "fps must be above 0"),
        ({"hop": 0}, "hop must be at least 1"),
    ],
)
def test_sizes_the_codec_cannot_make_name_the_nearest_it_can(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipGeometry(**({"width": 64, "height": 64, "frames": 81} | changes))


@pytest.mark.parametrize(
    ("seconds", "fps", "frames"),
    [(5, 16, 81), (5.0625, 16, 81), (5.0626, 16, 85), (0.01, 16, 1), (1.1, 10, 13), (1.0, Fraction(30000, 1001), 33)],
)
def test_frames_are_rounded_up_to_what_the_codec_makes(seconds: float, fps: Fraction, frames: int) -> None:
    assert frames_for(seconds, Fraction(fps)) == frames
    assert frames / Fraction(fps) >= Fraction(seconds).limit_denominator(10**6)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")])
def test_a_length_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds must be above 0"):
        frames_for(seconds, Fraction(16))
