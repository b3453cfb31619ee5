"""The refiner's input: interpolation, keyframes, source; and what its output adds to."""

import pytest
import torch
from torch.nn import functional

from sky4.conditioning.inpaint import VideoCondition
from sky4.conditioning.refiner import (
    RESIDUAL,
    KeyframeLatents,
    assemble_refiner,
    enlarged,
    expected_velocity,
    refiner_condition,
    refiner_velocity,
)
from sky4.ops.cubes import video_tiling


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_condition_is_the_interpolated_clip_where_nothing_else_is_given():
    low, noise = normal(1, 3, 3, 4, 5), normal(1, 3, 5, 8, 10, seed=1)
    noisy, condition = refiner_condition(low, noise)
    assert torch.equal(noisy, noise)
    even = functional.interpolate(low[0].transpose(0, 1), size=(8, 10), mode="bilinear", align_corners=False)
    assert torch.allclose(condition.latents[0, :, ::2], even.transpose(0, 1), atol=1e-5)
    between = (condition.latents[:, :, :-1:2] + condition.latents[:, :, 2::2]) / 2
    assert torch.allclose(condition.latents[:, :, 1::2], between, atol=1e-5)
    assert not condition.keep_mask.any()


def test_keyframes_and_source_replace_it_and_are_marked():
    low, noise, high = normal(1, 3, 3, 4, 4), normal(1, 3, 5, 8, 8, seed=1), normal(1, 3, 5, 8, 8, seed=2)
    mask = torch.zeros(1, 1, 5, 8, 8)
    mask[..., 4:] = 1.0
    keyframes = KeyframeLatents(high[:, :, [0, 4]] + 1, (0, 4))
    _, condition = refiner_condition(low, noise, keyframes, VideoCondition(high, mask))
    assert torch.equal(condition.latents[..., 4:], high[..., 4:])
    assert torch.equal(condition.latents[:, :, 4, :, :4], high[:, :, 4, :, :4] + 1)
    wanted = mask.clone()
    wanted[:, :, [0, 4]] = 1.0
    assert torch.equal(condition.keep_mask, wanted)


def test_enlarged_pixels_lie_where_interpolated_latents_do():
    pixels = normal(2, 3, 3, 4, 4).clamp(-1, 1)
    large = enlarged(pixels, 5, 8, 8)
    assert large.shape == (2, 3, 5, 8, 8) and float(large.abs().max()) <= 1
    every = enlarged(pixels, 3, 8, 8)
    assert torch.allclose(large[:, :, ::2], every, atol=1e-6)
    assert torch.allclose(large[:, :, 1::2], (every[:, :, :-1] + every[:, :, 1:]) / 2, atol=1e-6)
    assert torch.equal(enlarged(pixels, 3, 4, 4), pixels)
    low, noise = normal(1, 3, 5, 8, 8), normal(1, 3, 5, 8, 8, seed=1)
    assert torch.equal(refiner_condition(low, noise)[1].latents, low)  # on its own grid interpolating changes nothing


def test_a_silent_network_expects_the_velocity_of_the_interpolated_clip():
    interpolated, eps = normal(2, 3, 5, 4, 4), normal(2, 3, 5, 4, 4, seed=1)
    v = expected_velocity(eps, interpolated, torch.zeros(2))
    assert torch.allclose(eps + v, interpolated, atol=1e-6)


@pytest.mark.parametrize("residual", [RESIDUAL, 0.25])
@pytest.mark.parametrize("t", [0.0, 0.3, 0.7, 0.95])
def test_the_expected_velocity_is_the_regression_on_noise_and_condition(t: float, residual: float):
    r, eps = residual * normal(200_000), normal(200_000, seed=1)
    y, v = t * r + (1 - t) * eps, r - eps  # with I = 0
    slope = (y * v).mean() / y.square().mean()
    expected = expected_velocity(torch.ones(1, 1), torch.zeros(1, 1), torch.tensor([t]), residual)
    assert float(expected) == pytest.approx(float(slope), abs=0.02)


def test_its_output_is_put_back_from_cube_order():
    noisy = normal(1, 3, 5, 8, 8)
    condition = VideoCondition(torch.zeros_like(noisy), torch.zeros_like(noisy[:, :1]))
    media = assemble_refiner(noisy, condition, torch.ones(1), patch=2)
    assert media.cubes is not None and media.cubes.grid == (5, 4, 4)
    at_rest = expected_velocity(noisy, condition.latents, torch.ones(1))
    made = refiner_velocity(media.tokens[:, :, : 3 * 4], noisy, condition, torch.ones(1), patch=2)
    assert torch.allclose(made - at_rest, noisy, atol=1e-6)
    assert video_tiling((5, 4, 4)).tokens == media.tokens.shape[1]
