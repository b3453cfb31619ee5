"""Keep masks, condition latents, and the path that kept cells take while sampling."""

import pytest
import torch
from torch import Tensor

from sky4.conditioning import ShotSwitch
from sky4.conditioning.inpaint import (
    VideoCondition,
    concat_condition,
    condition_on,
    guided_by,
    keep_ends,
    keep_first,
    keep_last,
    keep_nothing,
    keep_where,
    on_path,
    path_velocity,
    restore_kept,
    unconditioned,
)
from sky4.diffusion.flow import noised, velocity_target
from sky4.diffusion.sampler import METHODS, Method, State, Times, sample, schedule


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def kept_frames(mask: Tensor) -> list[int]:
    assert mask.shape == (2, 1, 5, 2, 3)
    assert ((mask == 0) | (mask == 1)).all()
    whole = mask.flatten(3).amin(3)
    assert torch.equal(whole, mask.flatten(3).amax(3)), "these masks keep whole frames"
    return [t for t in range(5) if whole[0, 0, t] == 1]


def test_each_task_is_its_mask() -> None:
    shape = (2, 5, 2, 3)
    assert kept_frames(keep_nothing(shape)) == []
    assert kept_frames(keep_first(shape)) == [0]
    assert kept_frames(keep_first(shape, 3)) == [0, 1, 2]
    assert kept_frames(keep_last(shape, 2)) == [3, 4]
    assert kept_frames(keep_last(shape, 0)) == []
    assert kept_frames(keep_ends(shape)) == [0, 4]


def test_more_frames_than_there_are_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match="6 latent frames cannot be kept of a clip of 5"):
        keep_first((1, 5, 2, 2), 6)


def brute_force(region: Tensor, spatial: int, temporal: int) -> Tensor:
    batch, _, frames, height, width = region.shape
    groups = [range(1)] + [range(1 + g, 1 + g + temporal) for g in range(0, frames - 1, temporal)]
    kept = torch.zeros(batch, 1, len(groups), height // spatial, width // spatial)
    for b in range(batch):
        for t, group in enumerate(groups):
            for y in range(kept.shape[3]):
                for x in range(kept.shape[4]):
                    pixels = [
                        region[b, 0, f, y * spatial + i, x * spatial + j] == 1
                        for f in group
                        for i in range(spatial)
                        for j in range(spatial)
                    ]
                    kept[b, 0, t, y, x] = float(all(pixels))
    return kept


@pytest.mark.parametrize(("frames", "spatial", "temporal"), [(1, 8, 4), (9, 8, 4), (5, 4, 2)])
def test_a_latent_cell_is_kept_only_where_every_pixel_it_covers_is(frames: int, spatial: int, temporal: int) -> None:
    edited = 0.5 / (spatial**2 * min(frames, temporal))  # about every second cell stays whole
    region = (torch.rand(2, 1, frames, 32, 24, generator=torch.Generator().manual_seed(1)) > edited).float()
    expected = brute_force(region, spatial, temporal)
    assert 0 < expected.mean() < 1
    assert torch.equal(keep_where(region, spatial, temporal), expected)
    assert torch.equal(keep_where(region.bool(), spatial, temporal), expected)


def test_one_edited_pixel_frees_exactly_the_cell_over_it() -> None:
    region = torch.ones(1, 1, 9, 16, 24)
    region[0, 0, 4, 15, 8] = 0  # frames 1-4 are the second latent frame
    assert (keep_where(region) == 0).nonzero().tolist() == [[0, 0, 1, 1, 1]]


@pytest.mark.parametrize("shape", [(1, 1, 8, 8, 8), (1, 1, 9, 12, 8), (1, 3, 9, 8, 8)])
def test_regions_that_the_codec_does_not_make_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"keep region must be \[B, 1, 4n\+1, 8h, 8w\]"):
        keep_where(torch.ones(shape))


def test_what_is_not_kept_reads_as_the_black_frames_latent() -> None:
    source, black = randn(2, 4, 5, 2, 3), randn(1, 4, 5, 2, 3, seed=1)
    condition = condition_on(source, keep_first((2, 5, 2, 3), 2), black)
    assert torch.equal(condition.latents[:, :, :2], source[:, :, :2])
    assert torch.equal(condition.latents[:, :, 2:], black[:, :, 2:].expand(2, -1, -1, -1, -1))


def test_channels_run_v_i_m() -> None:
    noisy, condition = (
        randn(2, 4, 5, 2, 3),
        condition_on(randn(2, 4, 5, 2, 3, seed=1), keep_ends((2, 5, 2, 3)), randn(1)),
    )
    joined = concat_condition(noisy, condition)
    assert joined.shape[1] == 2 * 4 + 1
    assert torch.equal(joined[:, :4], noisy)
    assert torch.equal(joined[:, 4:8], condition.latents)
    assert torch.equal(joined[:, 8:], condition.keep_mask)


def test_text_to_video_is_black_and_unkept() -> None:
    black = randn(1, 4, 5, 2, 3)
    condition = unconditioned(black, batch=3)
    assert torch.equal(condition.latents, black.expand(3, -1, -1, -1, -1))
    assert condition.keep_mask.shape == (3, 1, 5, 2, 3)
    assert not condition.keep_mask.any()


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="keep mask for latents"):
        VideoCondition(randn(1, 4, 5, 2, 3), torch.zeros(1, 1, 5, 2, 2))


def test_training_and_sampling_see_kept_cells_on_the_same_path() -> None:
    data, eps, t = randn(1, 4, 5, 2, 3), randn(1, 4, 5, 2, 3, seed=1), 0.3
    condition = condition_on(data, keep_first((1, 5, 2, 3), 2), randn(1, 4, 5, 2, 3, seed=2))
    trained = noised(data, eps, torch.tensor(t))
    sampled = on_path(randn(1, 4, 5, 2, 3, seed=3), eps, condition, t)
    assert torch.equal(sampled[:, :, :2], trained[:, :, :2])
    moved = path_velocity(torch.zeros_like(data), eps, condition)
    assert torch.equal(moved[:, :, :2], velocity_target(data, eps)[:, :, :2])
    assert not moved[:, :, 2:].any()


@pytest.mark.parametrize("method", METHODS)
def test_kept_cells_come_out_as_they_went_in(method: Method) -> None:
    eps = randn(2, 4, 5, 2, 3)
    keep = keep_where((torch.rand(2, 1, 17, 16, 24, generator=torch.Generator().manual_seed(4)) > 0.001).float())
    condition = condition_on(randn(2, 4, 5, 2, 3, seed=1), keep, torch.zeros(1, 4, 5, 2, 3))

    def velocity(state: State, times: Times) -> State:
        noisy = on_path(state[0], eps, condition, times[0])
        return path_velocity(noisy.sin(), eps, condition), None

    video, _ = sample(velocity, (eps, None), schedule(7, 2.0), method)
    kept = keep.bool().expand_as(video)
    torch.testing.assert_close(video[kept], condition.latents[kept], rtol=0, atol=1e-5)
    exact = restore_kept(video, condition)
    assert torch.equal(exact[kept], condition.latents[kept])
    assert torch.equal(exact[~kept], video[~kept])


def test_repeating_stacks_whole_batches() -> None:
    condition = condition_on(randn(2, 4, 5, 2, 3), keep_first((2, 5, 2, 3)), torch.zeros(1, 4, 5, 2, 3))
    twice = condition.repeat(2)
    for half in (slice(0, 2), slice(2, 4)):
        assert torch.equal(twice.latents[half], condition.latents)
        assert torch.equal(twice.keep_mask[half], condition.keep_mask)


def test_what_is_known_is_carried_from_the_nearest_frame_that_keeps_something() -> None:
    source, black = randn(3, 4, 5, 2, 3, seed=1), randn(1, 4, 5, 2, 3, seed=2)
    keep = torch.zeros(3, 1, 5, 2, 3)
    keep[0, :, 1, 0] = 1.0  # half of frame 1
    keep[0, :, 4] = 1.0  # all of frame 4
    keep[1, :, 2:] = 1.0
    condition = guided_by(source, keep, black)
    first, second, nothing = condition.latents
    assert torch.equal(first[:, (0, 1, 2), 0], source[0, :, (1, 1, 1), 0])  # frame 2 lies nearer to 1
    assert torch.equal(first[:, :3, 1], black[0, :, :3, 1])
    assert torch.equal(first[:, 3:], source[0, :, (4, 4)])
    assert torch.equal(second, source[1, :, (2, 2, 2, 3, 4)])
    assert torch.equal(nothing, black[0])
    assert condition.offset is not None
    assert torch.equal(condition.offset[0, :, :3, 1], torch.zeros(4, 3, 3))
    assert torch.equal(condition.offset[0, :, :3, 0], first[:, :3, 0])
    assert torch.equal(condition.offset[2], torch.zeros(4, 5, 2, 3))


@pytest.mark.parametrize("all_known", [False, True])
def test_of_another_shot_nothing_is_known(all_known: bool) -> None:
    source, black = randn(2, 4, 5, 2, 3, seed=1), randn(1, 4, 5, 2, 3, seed=2)
    keep = torch.zeros(2, 1, 5, 2, 3)
    keep[0, :, :2] = 1.0  # of the first shot
    keep[1, :, 4] = 1.0  # of the second
    condition = guided_by(source, keep, black, source if all_known else None, switch=ShotSwitch(3, 0))
    before, behind = condition.latents
    assert torch.equal(before[:, :3], source[0, :, (0, 1, 1)])
    assert torch.equal(before[:, 3:], black[0, :, 3:])
    assert torch.equal(behind[:, :3], black[0, :, :3])
    assert torch.equal(behind[:, 3:], source[1, :, (4, 4)])
    assert condition.offset is not None
    assert not condition.offset[0, :, 3:].any() and not condition.offset[1, :, :3].any()
    assert torch.equal(condition.offset[0, :, :3], before[:, :3])


def test_a_clip_that_starts_from_known_latents_is_made_as_a_difference_from_them() -> None:
    source, known, black = (randn(2, 4, 3, 2, 3, seed=seed) for seed in (1, 2, 3))
    keep = torch.zeros(2, 1, 3, 2, 3)
    keep[0, :, 1, 0] = 1.0
    condition = guided_by(source, keep, black, known)
    expected = known[0][:, (1, 1, 1)].clone()
    expected[:, 1, 0] = source[0, :, 1, 0]
    assert torch.equal(condition.latents[0], expected)
    assert torch.equal(condition.latents[1], known[1])  # nothing is kept: each frame is known as itself
    made, noise = randn(2, 4, 3, 2, 3, seed=4), randn(2, 4, 3, 2, 3, seed=5)
    torch.testing.assert_close(condition.whole(condition.differing(made)), made)
    kept = keep.bool().expand_as(made)
    assert torch.equal(path_velocity(made, noise, condition)[kept], -noise[kept])  # of the difference, which is zero
    torch.testing.assert_close(on_path(made, noise, condition, 0.25)[kept], 0.75 * noise[kept])
    assert torch.equal(restore_kept(condition.whole(made), condition)[kept], source[kept])
    twice = condition.repeat(2).to(torch.device("cpu"), torch.float64)
    assert twice.offset is not None and twice.offset.shape[0] == 4 and twice.offset.dtype == torch.float64
