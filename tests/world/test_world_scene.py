"""Scenes are pure functions of their numbers, and what is held out of training stays out."""

from collections import Counter

import numpy as np
import pytest
import torch

from sky4.world.scene import CLIP_SECONDS, sample_scene
from sky4.world.vocabulary import BACKGROUNDS, COLOURS, LEVEL_SHAPES, MATERIALS, TEMPI, is_held_out


def test_the_same_numbers_give_the_same_scene_whatever_was_drawn_before():
    first = sample_scene(5, 123)
    for index in range(20):
        sample_scene(5, index)
    assert sample_scene(5, 123) == first
    assert sample_scene(5, 124) != first
    assert sample_scene(6, 123) != first


def test_held_out_pairs_never_appear_in_training_and_nothing_else_is_held_out():
    train = {(s.shape, s.colour) for s in (sample_scene(1, i) for i in range(3000))}
    heldout = {(s.shape, s.colour) for s in (sample_scene(1, i, split="heldout") for i in range(1000))}
    assert not train & heldout
    assert all(is_held_out(*pair) for pair in heldout)
    assert len(train | heldout) == len(LEVEL_SHAPES[1]) * len(COLOURS)
    assert len(heldout) / len(train | heldout) == pytest.approx(1 / 8, abs=0.02)


def test_attributes_are_drawn_evenly_and_independently():
    scenes = [sample_scene(2, i) for i in range(3000)]
    for name, ways in (("material", MATERIALS), ("background", BACKGROUNDS), ("tempo", TEMPI)):
        counts = Counter(getattr(scene, name) for scene in scenes)
        assert len(counts) == len(ways)
        assert max(counts.values()) / min(counts.values()) < 1.35
    pairs = Counter((scene.material, scene.tempo) for scene in scenes)
    assert max(pairs.values()) / min(pairs.values()) < 1.7


def test_events_are_audible_apart_and_stay_in_the_frame():
    for scene in (sample_scene(3, i) for i in range(200)):
        events = scene.events(0.0, CLIP_SECONDS)
        assert len(events) >= 3
        assert np.diff([event.time for event in events]).min() > 0.6
        assert all(0 <= event.x <= 1 for event in events)


def test_events_of_two_halves_are_the_events_of_the_whole():
    for scene in (sample_scene(4, i) for i in range(50)):
        assert scene.events(0.0, 2.0) + scene.events(2.0, 3.0) == scene.events(0.0, 5.0)


def test_a_bounce_touches_the_ground_exactly_at_its_events():
    for scene in (sample_scene(5, i) for i in range(80)):
        if scene.motion == "bounce":
            times = torch.tensor([event.time for event in scene.events(0, 5)], dtype=torch.float64)
            _, at = scene.position(times)
            _, later = scene.position(times + 0.05)
            assert (later < at - 0.05).all()
            # modulo rounding decides on which side of the contact a time falls: both are the ground
            assert torch.allclose(at, torch.full_like(at, 0.88 - scene.radius), atol=1e-6)


def test_a_level_the_world_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"level must be one of \[1, 2, 3\], got 9"):
        sample_scene(0, 0, level=9)
