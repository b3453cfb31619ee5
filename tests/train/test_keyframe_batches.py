"""High-resolution keyframes beside a clip in joint training: which they are, and that they are learned."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from sky4.conditioning.assemble import keyframe_velocity
from sky4.conditioning.keyframes import packed, unpacked
from sky4.diffusion.flow import velocity_target
from sky4.train.batches import BatchSource, LatentBatch, Position
from sky4.train.keyed import permuted
from sky4.train.objective import condition_of, flow_loss, video_input
from sky4.train.settings import JointSettings
from tests.train.nano import ALL_TASKS, CHANNELS, encode, make_model

Make = Callable[..., JointSettings]


def batches(make_settings: Make, count: int = 12, **changes: float) -> tuple[BatchSource, list[LatentBatch]]:
    source = BatchSource(make_settings(tasks={"keyframes": {**ALL_TASKS["keyframes"], "batch": 4, **changes}}))
    position, made = Position(), []
    for _ in range(count):
        made.append(source.make(position))
        position = position.after(made[-1].task)
    return source, made


def test_keyframes_are_the_large_clips_at_the_frames_they_name(make_settings: Make) -> None:
    source, made = batches(make_settings)
    pool = source._pools["pairs"]
    place, seen = 0, set()
    for batch in made:
        assert batch.high is not None and batch.audio is None
        seen.add(batch.high.frames)
        assert len(batch.high.frames) == batch.task.keyframes
        items = permuted(np.arange(place, place + 4), pool.count, 1, "pairs")
        place += 4
        assert torch.equal(batch.video, pool.read("video", items))
        assert torch.equal(batch.high.latents, pool.read("high", items)[:, :, [2 * f for f in batch.high.frames]])
    assert {len(frames) for frames in seen} == {1, 2} and len(seen) > 3


def test_the_tower_is_given_them_last_and_marked(make_settings: Make) -> None:
    settings = make_settings()
    _, [batch, *_] = batches(make_settings, 1)
    config, black = settings.transformer_config(), torch.zeros(1, CHANNELS, 3, 4, 4)
    media = video_input(config, batch, condition_of(config, batch, black), black)
    count = batch.task.keyframes * 16  # of 8x8 cells in patches of 2x2
    assert int(media.segment.sum()) == count and bool((media.segment[-count:] == 1).all())
    low = media.positions[: 3 * 4]
    assert float(media.positions[-count:, 1:].max()) < float(low[:, 1:].max()) + 1
    assert set(media.positions[-count:, 0].tolist()) == {float(frame) for frame in batch.high.frames}


def test_kept_cells_of_the_clip_are_kept_in_its_keyframes(make_settings: Make) -> None:
    _, made = batches(make_settings)
    kept = 0
    for batch in made:
        mask = batch.high.keep_mask(batch.keep_mask)
        for place, frame in enumerate(batch.high.frames):
            assert torch.equal(mask[:, 0, place, 0, 0], batch.keep_mask[:, 0, frame, 0, 0])
        kept += int(mask[:, 0, :, 0, 0].sum())
    assert kept > 0


def test_they_are_in_the_loss(make_settings: Make) -> None:
    settings = make_settings()
    _, [batch, *_] = batches(make_settings, 1)
    model, black = make_model(settings), torch.zeros(1, CHANNELS, 3, 4, 4)
    text = encode(list(batch.prompts))
    total = flow_loss(model, model.config, batch, text, black).total
    total.backward()
    assert bool(model.video.keyframe.grad.any())
    out = model.video(video_input(model.config, batch, condition_of(model.config, batch, black), black), text)
    wanted = velocity_target(batch.high.latents, batch.high.noise)
    off = (keyframe_velocity(out, wanted.shape, model.config.patch) - wanted).square()
    generated = (1 - batch.high.keep_mask(batch.keep_mask)).expand_as(off)
    without = flow_loss(model, model.config, batch, text, black).video
    alone = (off * generated).sum() / generated.sum()
    parts = 1 - batch.keep_mask.flatten(1)
    weights = parts.sum(1) / parts.sum()
    assert torch.allclose(total, alone + (without * weights).sum(), atol=1e-5)


def test_of_a_given_clip_only_the_keyframes_are_made(make_settings: Make) -> None:
    settings = make_settings()
    _, made = batches(make_settings, whole=0.5)
    assert {batch.task.whole for batch in made} == {True, False}
    batch = next(batch for batch in made if batch.task.whole)
    assert bool(batch.keep_mask.all())
    assert not bool(batch.high.keep_mask(batch.keep_mask).any())
    model, black = make_model(settings), torch.zeros(1, CHANNELS, 3, 4, 4)
    text = encode(list(batch.prompts))
    loss = flow_loss(model, model.config, batch, text, black)
    out = model.video(video_input(model.config, batch, condition_of(model.config, batch, black), black), text)
    wanted = velocity_target(batch.high.latents, batch.high.noise)
    off = (keyframe_velocity(out, wanted.shape, model.config.patch) - wanted).square()
    assert torch.allclose(loss.total, off.mean(), atol=1e-5)
    assert torch.allclose(loss.video, off.flatten(1).mean(1), atol=1e-5)
    part = batch.part(slice(1, 3))
    assert part.high.alone
    assert bool(flow_loss(model, model.config, part, encode(list(part.prompts)), black).total.isfinite())


def test_a_part_of_a_batch_has_its_own(make_settings: Make) -> None:
    _, [batch, *_] = batches(make_settings, 1)
    part = batch.part(slice(1, 3))
    assert torch.equal(part.high.latents, batch.high.latents[1:3])
    assert replace(part.high, frames=(0,)).frames == (0,)


def test_packing_is_undone() -> None:
    low, high = torch.randn(2, 3, 4, 5, 6), torch.randn(2, 3, 2, 10, 12)
    again = unpacked(packed(low, high), low.shape, high.shape)
    assert torch.equal(again[0], low) and torch.equal(again[1], high)
