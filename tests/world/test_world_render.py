"""Pictures and sounds against small direct formulas in numpy."""

import math

import numpy as np
import pytest
import torch

from sky4.world.render import render_video
from sky4.world.scene import Scene, sample_scene
from sky4.world.shapes import SHAPE_DISTANCES
from sky4.world.sound import pan_gains, render_audio
from sky4.world.vocabulary import BACKGROUNDS, COLOURS, MATERIALS, SIZES


def one(**wanted: object) -> Scene:
    scenes = (sample_scene(21, index) for index in range(5000))
    return next(s for s in scenes if all(getattr(s, name) == value for name, value in wanted.items()))


def position(scene: Scene, time: float) -> tuple[float, float, float]:
    """(x, y, radius) from the words of the world, not from the scene's methods."""
    x, radius = scene.x0 + scene.vx * time, SIZES[scene.size]
    cycle = (time - scene.first) / scene.period
    if scene.motion == "bounce":
        phase = cycle - math.floor(cycle)
        return x, 0.88 - radius - 0.42 * 4 * phase * (1 - phase), radius
    since = (cycle - math.floor(cycle)) * scene.period
    swell = 0.35 * math.exp(-since / 0.14) if cycle >= 0 else 0.0
    return x, scene.y0 + scene.vy * time, radius * (1 + swell)


INSIDE = {
    "circle": lambda x, y: x * x + y * y < 1,
    "square": lambda x, y: (np.abs(x) < 0.84) & (np.abs(y) < 0.84),
    "ring": lambda x, y: (np.hypot(x, y) > 0.48) & (np.hypot(x, y) < 1),
    "cross": lambda x, y: ((np.abs(x) < 1) & (np.abs(y) < 0.34)) | ((np.abs(x) < 0.34) & (np.abs(y) < 1)),
    "triangle": lambda x, y: (y < 0.82) & (np.sqrt(3) * np.abs(x) < y + 0.98),
}


@pytest.mark.parametrize("shape", INSIDE)
def test_frames_equal_a_supersampled_picture_of_the_formulas(shape):
    size, fine = 48, 8
    scene = one(shape=shape)
    frames = render_video([scene], 20, 8, size)[0].permute(1, 2, 3, 0).numpy()
    axis = (np.arange(size * fine) + 0.5) / (size * fine)
    for f in (0, 3, 11, 19):
        x, y, radius = position(scene, f / 8)
        inside = INSIDE[shape]((axis[None] - x) / radius, (axis[:, None] - y) / radius).astype(float)
        alpha = inside.reshape(size, fine, size, fine).mean((1, 3))[..., None]
        rows = (np.arange(size) + 0.5) / size
        base = np.array(BACKGROUNDS[scene.background]) / 255
        behind = base * (1.15 - 0.3 * rows)[:, None]
        if scene.motion == "bounce":
            below = np.clip((rows - 0.88) * size + 0.5, 0, 1)[:, None]
            behind = behind * (1 - below) + (base * 0.5 + 0.12) * below
        wanted = behind[:, None] * (1 - alpha) + np.array(COLOURS[scene.colour]) / 255 * alpha
        error = np.abs((frames[f] + 1) / 2 - wanted)
        assert error.mean() < 2e-3  # the analytic edge differs from 64 subsamples in corners only
        assert error.max() < 0.35


def test_a_scene_looks_alike_at_every_frame_rate_size_and_start():
    scenes = [sample_scene(22, index) for index in range(4)]
    slow, usual, fast = (render_video(scenes, 2 * rate + 1, rate, 64) for rate in (8, 16, 32))
    assert torch.allclose(slow, usual[:, :, ::2], atol=2e-3)
    assert torch.allclose(usual, fast[:, :, ::2], atol=2e-3)
    late = render_video(scenes, 17, 16, 64, start=1.0)
    assert torch.allclose(late, usual[:, :, 16:], atol=2e-3)
    large = render_video(scenes, 9, 8, 128)
    halved = torch.nn.functional.avg_pool3d(large, (1, 2, 2))
    assert (halved - render_video(scenes, 9, 8, 64)).abs().mean() < 4e-3


def test_a_batch_is_its_scenes():
    scenes = [sample_scene(23, index) for index in range(3)]
    together = render_video(scenes, 5, 16, 32, start=[0.0, 1.0, 2.5])
    for b, (scene, start) in enumerate(zip(scenes, (0.0, 1.0, 2.5), strict=True)):
        assert torch.equal(together[b : b + 1], render_video([scene], 5, 16, 32, start=start))
    assert together.min() >= -1
    assert together.max() <= 1


def test_every_shape_is_negative_inside_positive_outside_and_nowhere_steeper_than_two():
    axis = torch.linspace(-2, 2, 201)
    x, y = torch.meshgrid(axis, axis, indexing="xy")
    for name, distance in SHAPE_DISTANCES.items():
        d = distance(x, y)
        assert 0.8 < float((d < 0).float().mean()) * 16 < 3.3, name  # area in squared radii
        assert (d[0] > 0).all(), name
        assert (d[-1] > 0).all(), name
        assert float(d.diff(dim=1).abs().max()) / 0.02 < 2.0, name


@pytest.mark.parametrize("material", MATERIALS)
def test_sound_equals_the_sum_of_decaying_sines_in_float64(material):
    scene = one(material=material)
    rate, seconds = 44100, 2.2
    wave = render_audio([scene], round(seconds * rate), rate)[0].numpy()
    time = np.arange(wave.shape[1]) / rate
    wanted = np.zeros((2, len(time)))
    for beat in range(8):
        at = scene.first + beat * scene.period
        since = time - at
        ring = sum(
            m.amplitude * np.sin(2 * np.pi * m.frequency * since) * np.exp(-since / m.decay)
            for m in MATERIALS[material]
        )
        hit = np.where(
            since >= 0, 0.35 * np.minimum(np.maximum(since, 0) / 0.0005, 1) * np.where(since >= 0, ring, 0), 0
        )
        angle = np.pi / 2 * (scene.x0 + scene.vx * at)
        wanted += np.array([[np.cos(angle)], [np.sin(angle)]]) * hit
    assert np.abs(wave - wanted).max() < 5e-4  # the tail is cut at -69 dB
    assert np.abs(wave).max() > 0.1


def test_a_sound_cut_in_two_rings_on_and_agrees_at_another_sample_rate():
    scene = one(material="metal")
    whole = render_audio([scene], 88200, 44100)
    late = render_audio([scene], 44100, 44100, start=1.0)
    assert (whole[:, :, 44100:] - late).abs().max() < 1e-3
    double = render_audio([scene], 176400, 88200)
    assert (double[:, :, ::2] - whole).abs().max() < 1e-3


def test_pan_keeps_power_and_clamps_outside_of_the_frame():
    for x in (0.0, 0.2, 0.5, 0.9, 1.0):
        left, right = pan_gains(x)
        assert left**2 + right**2 == pytest.approx(1)
    assert pan_gains(-3.0) == pan_gains(0.0)
    assert pan_gains(0.5)[0] == pytest.approx(pan_gains(0.5)[1])
