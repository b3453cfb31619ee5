"""Batches: functions of the position alone, with the captions, references and timesteps of their task."""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sky4.errors import Sky4Failure
from sky4.train.batches import BatchSource, LatentBatch, Position, refer
from sky4.train.latent_cache import LatentPool
from sky4.train.settings import JointSettings
from sky4.world.captions import parse
from sky4.world.scene import sample_scene
from tests.train.nano import ALL_TASKS

Make = Callable[..., JointSettings]
TENSORS = ("video", "video_noise", "video_time", "keep_mask", "audio", "audio_noise", "audio_time")


def assert_same(one: LatentBatch, other: LatentBatch) -> None:
    assert (one.task, one.numbers, one.prompts) == (other.task, other.numbers, other.prompts)
    for name in TENSORS:
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None and b is None) or torch.equal(a, b), name
    for name in ("video_references", "audio_references"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None and b is None) or torch.equal(a.latents, b.latents), name


def first(settings: JointSettings, count: int) -> list[LatentBatch]:
    return [batch for batch, _ in islice(BatchSource(settings).ahead(Position()), count)]


def only(kind: str, **changes: object) -> dict[str, object]:
    return {kind: {**ALL_TASKS[kind], **changes}}


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_batches_do_not_depend_on_how_far_ahead_they_are_made(make_settings: Make, ahead: int) -> None:
    source = BatchSource(make_settings())
    position = Position()
    for batch, following in islice(source.ahead(Position(), ahead), 12):
        assert_same(batch, source.make(position))
        position = position.after(batch.task)
        assert position == following


def test_a_sample_does_not_depend_on_the_batch_s_size(make_settings: Make) -> None:
    captions = {"kinds": {"long": 1.0}, "languages": {"zh": 1.0}}  # these two are a batch's, not a sample's
    [large] = first(make_settings(tasks=only("mask", batch=8), captions=captions), 1)
    small = first(make_settings(tasks=only("mask", batch=4), captions=captions), 2)
    for name in TENSORS:
        assert torch.equal(getattr(large, name), torch.cat([getattr(batch, name) for batch in small])), name
    assert large.prompts == small[0].prompts + small[1].prompts


def test_every_clip_is_seen_once_an_epoch(make_settings: Make) -> None:
    batches = first(make_settings(tasks=only("t2a", batch=4)), 16)
    audio = torch.cat([batch.audio for batch in batches if batch.audio is not None])[:, 0, 0]
    epochs = audio.reshape(2, 32).sort(1).values
    assert torch.equal(epochs[0], epochs[1])
    assert len(epochs[0].unique()) > 25


def test_a_window_is_the_first_part_of_the_clip(make_settings: Make) -> None:
    settings = make_settings(tasks=only("t2av", frames=[2], batch=4))
    [batch] = first(settings, 1)
    pool = LatentPool(Path(settings.data.cache), "clips", 32)
    whole = pool.read("video", np.arange(32))
    assert batch.video is not None
    assert batch.audio is not None
    assert batch.video.shape[2] == batch.geometry.latent_frames == 2
    assert batch.audio.shape[1] == batch.geometry.audio_tokens
    assert all(any(torch.equal(row, clip[:, :2]) for clip in whole) for row in batch.video)


def test_prompts_are_dropped_at_the_configured_rate(make_settings: Make) -> None:
    settings = make_settings(tasks=only("t2i", batch=200), captions={"drop": 0.1})
    prompts = [prompt for batch in first(settings, 6) for prompt in batch.prompts]
    dropped = sum(prompt == "" for prompt in prompts)
    # 1200 draws: five standard deviations
    assert abs(dropped - 120) < 5 * (1200 * 0.1 * 0.9) ** 0.5


@pytest.mark.parametrize(("kind", "seen", "heard"), [("t2i", True, False), ("t2av", True, True), ("t2a", False, True)])
def test_captions_tell_what_the_task_has(make_settings: Make, kind: str, seen: bool, heard: bool) -> None:
    settings = make_settings(tasks=only(kind, batch=16), captions={"drop": 0.0})
    facts = [parse(prompt) for prompt in first(settings, 1)[0].prompts]
    assert all((fact.shape is not None) == seen for fact in facts)
    assert all((fact.material is not None) == heard for fact in facts)


def test_captions_are_of_the_clip_that_stands_beside_them(make_settings: Make) -> None:
    settings = make_settings(tasks=only("t2av", batch=16), captions={"drop": 0.0})
    source = BatchSource(settings)
    batch = source.make(Position())
    pool = LatentPool(Path(settings.data.cache), "clips", 32)
    clips = pool.read("audio", np.arange(32), batch.geometry.audio_tokens)
    assert batch.audio is not None
    for prompt, audio in zip(batch.prompts, batch.audio, strict=True):
        index = next(i for i, clip in enumerate(clips) if torch.equal(clip, audio))
        assert parse(prompt).colour == sample_scene(pool.scene_seed, index).colour


def test_a_batch_s_captions_are_of_one_kind_and_batches_differ(make_settings: Make) -> None:
    batches = first(make_settings(tasks=only("t2av", batch=8), captions={"drop": 0.0}), 30)
    structured = [sum(prompt.startswith(("[Shot", "【镜头")) for prompt in batch.prompts) for batch in batches]
    chinese = [sum(not prompt.isascii() for prompt in batch.prompts) for batch in batches]
    assert set(structured) == set(chinese) == {0, 8}


def test_every_batch_spreads_its_timesteps_evenly(make_settings: Make) -> None:
    for batch in first(make_settings(tasks=only("t2v", batch=16)), 5):
        counts = torch.histc(batch.video_time, 4, 0, 1)
        assert counts.min() >= 3
        assert counts.max() <= 5


def times(settings: JointSettings) -> tuple[Tensor, Tensor]:
    batches = first(settings, 8)
    return torch.cat([b.video_time for b in batches]), torch.cat([b.audio_time for b in batches])


def test_both_modalities_share_their_time_but_for_a_share_of_samples(make_settings: Make) -> None:
    video, audio = times(make_settings(tasks=only("t2av", batch=50), time={"separate": 0.2}))
    assert abs(float((video != audio).float().mean()) - 0.2) < 0.1
    assert abs(float(video.mean()) - 0.5) < 0.1


@pytest.mark.parametrize(("kind", "given"), [("drive", 1), ("v2a", 0)])
def test_what_is_given_stands_at_time_one(make_settings: Make, kind: str, given: int) -> None:
    pair = times(make_settings(tasks=only(kind, batch=20)))
    assert (pair[given] == 1).all()
    assert (pair[1 - given] < 1).all()


def test_references_are_left_out_at_the_configured_rate(make_settings: Make) -> None:
    settings = make_settings(tasks=only("reference", batch=1), captions={"drop_references": 0.3})
    batches = first(settings, 200)
    left_out = sum(batch.video_references is None for batch in batches)
    assert abs(left_out - 60) < 5 * (200 * 0.3 * 0.7) ** 0.5
    assert all((b.video_references is None) == (b.audio_references is None) for b in batches)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_references_take_the_subject_s_place(language: str) -> None:
    from sky4.world.captions import caption

    named = "a red circle" if language == "en" else "一个红色圆形"
    beside = 0
    for index in range(40):
        scene, random = sample_scene(1, index), np.random.default_rng(index)
        text = refer(caption(scene, "structured", language, random), scene, language, random)  # type: ignore[arg-type]
        assert text.count("@image_1") == 1, text
        beside += parse(text).shape == scene.shape
        said = parse(text.replace("@image_1", named, 1))
        assert (said.motion, said.drift) == (scene.motion, scene.drift), text
        assert said.material in (None, scene.material), text
    assert 4 < beside < 22  # three in ten keep the words beside the reference


def test_parts_of_a_batch_are_its_rows(make_settings: Make) -> None:
    [batch] = first(make_settings(tasks=only("reference", batch=4), captions={"drop_references": 0.0}), 1)
    part = batch.part(slice(1, 3))
    assert part.numbers == range(1, 3)
    assert part.video is not None
    assert batch.video is not None
    assert torch.equal(part.video, batch.video[1:3])
    assert part.video_references is not None
    assert len(part.video_references.latents) == 2


def test_a_missing_cache_names_the_remedy(make_settings: Make, tmp_path: object) -> None:
    with pytest.raises(Sky4Failure, match="make them with 'sky4 train cache'"):
        BatchSource(make_settings(data={"cache": str(tmp_path)}))


def test_a_cache_of_other_clips_is_refused(make_settings: Make) -> None:
    with pytest.raises(ValueError, match=r"config.clip is 64x64, 13 frames .* holds 32x32"):
        BatchSource(make_settings(clip={"width": 64, "height": 64, "frames": 13, "fps": 16}))


def test_fewer_clips_are_used_where_asked_for(make_settings: Make) -> None:
    settings = make_settings()
    few = replace(settings, data=replace(settings.data, clips=10, images=500))
    assert BatchSource(few).counts == {"images": 32, "clips": 10, "pairs": 32}
