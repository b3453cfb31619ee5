"""The detectors find what was drawn and sounded, also through blur, noise, coding and wobbling edges."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from sky4.world.measure_audio import measure_audio
from sky4.world.measure_video import measure_video
from sky4.world.pairing import WIDEST, pair_events
from sky4.world.scene import sample_scene

FPS, RATE = 16, 44100
WORDS = ("colour", "shape", "direction", "motion", "size", "background")


def right(scenes, facts, word):
    return np.mean([getattr(f, word) == getattr(s, word) for s, f in zip(scenes, facts, strict=True)])


def errors(true, found):
    """Signed errors of the found times against the nearest true ones."""
    return [t - min(true, key=lambda event: abs(event - t)) for t in found]


def test_on_renders_every_fact_of_the_picture_is_found(truth, measured):
    scenes = [prompt.scene for prompt, _, _ in truth]
    for word in WORDS:
        assert right(scenes, [clip.video for clip in measured], word) >= 0.97, word


def test_on_renders_every_fact_of_the_sound_is_found(truth, measured):
    hits = [clip.audio.material == prompt.scene.material for (prompt, _, _), clip in zip(truth, measured, strict=True)]
    assert np.mean(hits) >= 0.97


def test_seen_and_heard_times_are_the_true_ones(truth, measured):
    seen, heard, missed = [], [], 0
    for (prompt, _, _), clip in zip(truth, measured, strict=True):
        true = [event.time for event in prompt.scene.events(0, clip.seconds)]
        seen += errors(true, clip.video.events)
        heard += errors(true, clip.audio.onsets)
        sure = sum(time < clip.seconds - 0.15 for time in true)
        missed += max(0, sure - len(clip.video.events)) + max(0, sure - len(clip.audio.onsets))
    assert missed == 0
    assert np.median(np.abs(seen)) <= 0.005
    assert np.quantile(np.abs(seen), 0.95) <= 0.030
    assert np.abs(np.mean(seen)) <= 0.005
    assert np.quantile(np.abs(heard), 0.95) <= 0.001


def test_the_track_is_the_true_one(truth, measured):
    for (prompt, _, _), clip in zip(truth, measured, strict=True):
        x, y = prompt.scene.position(torch.arange(81, dtype=torch.float32) / 16)
        inside = (x > 0.25) & (x < 0.75) & (y > 0.25) & (y < 0.75)
        error = np.abs(clip.video.track - torch.stack([x, y], 1).numpy())[inside.numpy()]
        assert error.max(initial=0.0) < 0.01, prompt.text


def wobbled(frames, random):
    """What a small model makes of a clip: soft, with edges that move from frame to frame, and grainy."""
    out = np.empty(frames.shape, dtype=np.float64)
    grid = np.stack(np.meshgrid(np.arange(64.0), np.arange(64.0), indexing="ij"))
    for f, frame in enumerate(frames):
        shift = gaussian_filter(random.normal(size=(2, 64, 64)), (0, 4, 4)) * 12
        for c in range(3):
            out[f, :, :, c] = map_coordinates(frame[:, :, c].astype(float), grid + shift, order=1, mode="nearest")
    soft = gaussian_filter(out, (0.3, 1.2, 1.2, 0))
    return np.clip(soft + random.normal(0, 10, soft.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("blur", "noise"), [(0.8, 8.0), (1.5, 16.0)])
def test_blur_and_noise_are_survived(truth, blur, noise):
    random, facts, off = np.random.default_rng(1), [], []
    for prompt, frames, _ in truth[:10]:
        soft = gaussian_filter(frames.astype(np.float32), (0, blur, blur, 0)) + random.normal(0, noise, frames.shape)
        facts.append(measure_video(np.clip(soft, 0, 255).astype(np.uint8), FPS))
        off += errors([event.time for event in prompt.scene.events(0, 5.1)], facts[-1].events)
    scenes = [prompt.scene for prompt, _, _ in truth[:10]]
    for word in WORDS:
        assert right(scenes, facts, word) >= 0.9, word
    assert np.median(np.abs(off)) <= 0.015


def test_wobbling_edges_are_survived(truth):
    random = np.random.default_rng(2)
    some = truth[:8]
    facts = [measure_video(wobbled(frames, random), FPS) for _, frames, _ in some]
    for word in ("colour", "shape", "direction", "motion", "background"):
        assert right([prompt.scene for prompt, _, _ in some], facts, word) >= 0.9, word


def test_other_sizes_rates_and_lengths_are_measured_alike(drawn):
    for size, fps, frames in ((128, 16, 33), (96, 8, 41), (64, 24, 81), (64, 16, 33)):
        scenes = [sample_scene(31, index) for index in range(4)]
        facts = [measure_video(drawn(scene, frames, fps, size), fps) for scene in scenes]
        for word in WORDS:
            assert right(scenes, facts, word) == 1.0, (word, size, fps, frames)


def test_an_empty_picture_shows_nothing():
    facts = measure_video(np.full((9, 64, 64, 3), 30, dtype=np.uint8), 16)
    assert (facts.colour, facts.shape, facts.direction, facts.events) == (None, None, None, ())
    assert np.isnan(facts.x_at(0.3, 16))
    grain = np.random.default_rng(0).integers(0, 30, (9, 64, 64, 3), dtype=np.uint8)
    assert measure_video(grain, 16).colour is None


def test_a_single_frame_still_tells_colour_and_shape(drawn):
    scene = sample_scene(31, 2)
    facts = measure_video(drawn(scene, frames=1), 16)
    assert (facts.colour, facts.shape, facts.events, facts.direction) == (scene.colour, scene.shape, (), "none")


@pytest.mark.parametrize("hiss", [0.003, 0.02, 0.05])
def test_hiss_is_survived(truth, hiss):
    random = np.random.default_rng(3)
    for prompt, _, wave in truth[:10]:
        facts = measure_audio(wave + random.normal(0, hiss, wave.shape), RATE)
        true = prompt.scene.events(0, 4.95)
        assert facts.material == prompt.scene.material
        assert np.abs(errors([event.time for event in true], facts.onsets[: len(true)])).max() < 0.005
        assert np.abs(np.subtract([event.x for event in true], facts.pans[: len(true)])).max() < 0.02


def test_loudness_does_not_matter(truth):
    for prompt, _, wave in truth[:6]:
        for gain in (0.05, 1.4):
            facts = measure_audio(gain * wave, RATE)
            assert facts.material == prompt.scene.material
            assert len(facts.onsets) >= len(prompt.scene.events(0, 4.95))


def test_silence_and_steady_hiss_hold_no_event():
    assert measure_audio(np.zeros((2, 100_000)), RATE).onsets == ()
    assert measure_audio(np.random.default_rng(0).normal(0, 0.05, (2, 200_000)), RATE).onsets == ()
    assert measure_audio(np.zeros((2, 50)), RATE).material is None


def test_wrong_layouts_are_refused():
    with pytest.raises(ValueError, match=r"uint8 \[F, H, W, 3\], got float64"):
        measure_video(np.zeros((3, 8, 8, 3)), 16)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"stereo \[2, S\], got \[44100\]"):
        measure_audio(np.zeros(44100), RATE)


def test_events_pair_one_to_one_and_in_order():
    pairing = pair_events([1.0, 2.0, 3.0], [1.1, 1.95, 3.0], 5.0)
    assert pairing.offsets == pytest.approx((0.1, -0.05, 0.0))
    assert (pairing.missing, pairing.extra) == (0, 0)
    # One sound cannot be the sound of two bounces, and what is more than half a second away is another event.
    assert pair_events([1.0, 1.3], [1.2], 5.0).offsets == pytest.approx((-0.1,))
    assert pair_events([1.0, 1.3], [1.2], 5.0).missing == 1
    far = pair_events([1.0], [1.0 + WIDEST + 0.01], 5.0)
    assert (far.offsets, far.missing, far.extra, far.offset) == ((), 1, 1, WIDEST)


def test_what_cannot_be_measured_at_the_end_of_a_clip_is_not_missed():
    assert pair_events([1.0, 4.95], [1.0], 5.0).missing == 0
    assert pair_events([1.0], [1.0, 4.95], 5.0).extra == 0
    assert pair_events([], [], 5.0).offset == WIDEST


def test_the_matching_costs_the_least_of_all_matchings():
    random = np.random.default_rng(4)
    for _ in range(30):
        seen, heard = (sorted(random.uniform(0, 3, random.integers(0, 5))) for _ in range(2))
        cheapest = min(
            sum(abs(s - h) for s, h in zip(a, b, strict=True)) + WIDEST / 2 * (len(seen) + len(heard) - 2 * k)
            for k in range(min(len(seen), len(heard)) + 1)
            for a in combinations(seen, k)
            for b in combinations(heard, k)
        )
        found = pair_events(seen, heard, 99.0)
        left = len(seen) + len(heard) - 2 * len(found.offsets)
        assert sum(map(abs, found.offsets)) + WIDEST / 2 * left == pytest.approx(cheapest)
