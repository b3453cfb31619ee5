"""Batches of families: the right video, references, kept cells, sound and words for every row of the table."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sky4.train.batches import BatchSource, LatentBatch, Position
from sky4.train.latent_cache import LatentPool
from sky4.train.settings import JointSettings
from sky4.train.tasks import FAMILY_KINDS, ONWARD_KINDS
from sky4.train.trainer import TrainingState, TrainingStep
from sky4.world.families import SOUNDS, STILLS, TASK_ROWS, VIDEOS, TaskRow, sample_family
from tests.train.nano import CHANNELS, FAMILY_FRAMES, encode, make_model
from tests.train.test_batches import assert_same
from tests.train.test_trainer import StopAt, assert_same_checkpoints, run

Make = Callable[..., JointSettings]
BLACK = torch.zeros(1, CHANNELS, 4, 4, 4)
SILENT = {"effect", "expression", "inpaint_background"}
T = (FAMILY_FRAMES - 1) // 4 + 1


def settings_of(make: Make, kind: str, sound: float = 1.0, **captions: Any) -> JointSettings:
    words = {"drop": 0.0, "drop_references": 0.0, **captions}
    return make(tasks={kind: {"weight": 1.0, "sound": sound, "batch": 3}}, captions=words)


def batches_of(settings: JointSettings, count: int) -> list[LatentBatch]:
    return [batch for batch, _ in islice(BatchSource(settings).ahead(Position()), count)]


def batch_of(settings: JointSettings) -> LatentBatch:
    return batches_of(settings, 1)[0]


def pool_of(settings: JointSettings) -> LatentPool:
    return LatentPool(Path(settings.data.cache), "families", 100)


def whole(pool: LatentPool, name: str) -> Tensor:
    return torch.from_numpy(np.concatenate([pool._array(name, shard) for shard in range(2)])).float()


def items_of(batch: LatentBatch, pool: LatentPool, row: TaskRow) -> list[int]:
    """Which families the samples are, found by their target's last frame in the cells that are made anew."""
    assert batch.video is not None
    assert batch.keep_mask is not None
    targets = whole(pool, "video")[:, VIDEOS.index(row.target)]
    new = batch.keep_mask < 0.5
    found = [
        [i for i, target in enumerate(targets) if torch.equal(target[:, n[0]], video[:, n[0]])]
        for video, n in zip(batch.video, new, strict=True)
    ]
    assert all(len(match) == 1 for match in found)
    return [match[0] for match in found]


@pytest.mark.parametrize("row", TASK_ROWS, ids=[row.name for row in TASK_ROWS])
def test_a_row_s_batch_is_what_its_table_says(make_settings: Make, row: TaskRow) -> None:
    settings = settings_of(make_settings, row.name)
    batch, pool = batch_of(settings), pool_of(settings)
    assert batch.video is not None
    assert batch.keep_mask is not None
    items = items_of(batch, pool, row)
    video, still = whole(pool, "video")[items], whole(pool, "still")[items]

    shown = [
        still[:, STILLS.index(name[6:])] if name.startswith("still:") else video[:, VIDEOS.index(name)]
        for name in row.shown
        if not name.startswith("hit:")
    ]
    if shown:  # in prompt order: a picture of one frame, then a video of all
        assert batch.video_references is not None
        assert torch.equal(batch.video_references.latents, torch.cat(shown, dim=2))
        assert batch.video_references.latents.shape[2] == sum(1 if n.startswith("still:") else T for n in row.shown if n[:4] != "hit:")  # fmt: skip  # noqa: E501
    else:
        assert batch.video_references is None

    kept = batch.keep_mask.expand_as(batch.video) > 0.5
    source = video[:, VIDEOS.index("cleared" if row.under else row.target)]
    assert torch.equal(batch.video[kept], source[kept])
    if row.region == "thing":
        assert torch.equal(batch.keep_mask[:, 0], 1 - whole(pool, "region")[items][:, 0])
    else:
        expected = torch.zeros_like(batch.keep_mask)
        expected[:, :, 0] = float(row.name == "effect")
        assert torch.equal(batch.keep_mask, expected)

    assert (batch.audio is None) == (row.name in SILENT)
    if batch.audio is not None:
        newcomer = row.target in ("replaced", "transfer")
        heard = whole(pool, "audio")[items][:, SOUNDS.index("replaced" if newcomer else "base")]
        assert torch.equal(batch.audio, heard[:, : batch.geometry.audio_tokens])
    if "hit:replaced" in row.shown:
        assert batch.audio_references is not None
        assert torch.equal(batch.audio_references.latents, whole(pool, "hit")[items][:, 0])
    else:
        assert batch.audio_references is None


@pytest.mark.parametrize("row", TASK_ROWS, ids=[row.name for row in TASK_ROWS])
def test_words_are_of_the_families_that_stand_beside_them(make_settings: Make, row: TaskRow) -> None:
    from sky4.prompting import require_clean

    settings = settings_of(make_settings, row.name, languages={"en": 1.0})
    batch, pool = batch_of(settings), pool_of(settings)
    for item, prompt in zip(items_of(batch, pool, row), batch.prompts, strict=True):
        family = sample_family(1, int(pool.scenes(np.array([item]))[0]))
        require_clean(prompt, ["image_1", "video_1", "audio_1"])
        if row.name in ("subject_replace", "inpaint_subject"):
            assert family.newcomer.colour in prompt
        if row.name == "image_audio":
            assert "<sfx>@audio_1" in prompt


@pytest.mark.parametrize("kind", FAMILY_KINDS)
def test_a_step_on_every_kind_with_sound_and_without_has_a_finite_loss(make_settings: Make, kind: str) -> None:
    settings = settings_of(make_settings, kind, sound=0.5)
    source = BatchSource(settings)
    state = TrainingState(settings, make_model(settings), source.counts)
    step = TrainingStep(settings, state, encode, BLACK, torch.device("cpu"))
    forms = {task.has_audio: task for task in source.mix.tasks}
    assert set(forms) == ({False} if kind in SILENT else {False, True})
    seen = {batch.task.has_audio: batch for batch in batches_of(settings, 8)}
    for batch in seen.values():
        loss, norm, taken = step(batch, 1.0)
        assert taken
        assert np.isfinite(norm)
        assert norm > 0
        assert torch.isfinite(loss.total)
        assert (batch.audio is None) == (not batch.task.has_audio)


def test_the_same_take_is_shown_and_to_be_made_again(make_settings: Make) -> None:
    for sound in (0.0, 1.0):
        batch = batch_of(settings_of(make_settings, "same", sound))
        assert batch.video is not None
        assert batch.video_references is not None
        assert batch.keep_mask is not None
        assert torch.equal(batch.video, batch.video_references.latents)
        assert not batch.keep_mask.any()
        assert all("@video_1" in prompt for prompt in batch.prompts)


@pytest.mark.parametrize("kind", ONWARD_KINDS)
def test_a_take_that_goes_on_keeps_its_first_frames_or_its_last_under_its_own_sound(
    make_settings: Make, kind: str
) -> None:
    settings = make_settings(tasks={kind: {"weight": 1.0, "keep": [1, 2]}})
    pool = pool_of(settings)
    batches = batches_of(settings, 6)
    assert {batch.task.keep for batch in batches} == {1, 2}
    for batch in batches:
        assert batch.video is not None and batch.audio is not None and batch.keep_mask is not None
        kept = batch.keep_mask.flatten(3).amin(3)[:, 0]  # [B, T]
        held = [1.0] * batch.task.keep + [0.0] * (kept.shape[1] - batch.task.keep)
        assert kept.tolist() == [held if kind == "take_extend" else held[::-1]] * len(kept)
        shown, heard = whole(pool, "video")[:, VIDEOS.index("onward")], whole(pool, "audio")[:, SOUNDS.index("onward")]
        for row, sound in zip(batch.video, batch.audio, strict=True):
            [place] = (shown == row).flatten(1).all(1).nonzero()[:, 0].tolist()
            assert torch.equal(heard[place, : len(sound)], sound)


def test_silent_takes_are_of_every_kind_and_sounding_ones_of_the_base(make_settings: Make) -> None:
    silent, loud = (settings_of(make_settings, "take", sound) for sound in (0.0, 1.0))
    videos = whole(pool_of(silent), "video")

    def drawn(batch: LatentBatch) -> int:
        assert batch.video is not None
        [place] = {int(p) for row in batch.video for p in (videos == row).flatten(2).all(2).nonzero()[:, 1]}
        return place

    batches = batches_of(silent, 40)
    assert len({drawn(batch) for batch in batches}) > 8
    assert {drawn(batch) for batch in batches_of(loud, 6)} == {VIDEOS.index("base")}
    masks = [batch.keep_mask for batch in batches if batch.keep_mask is not None]
    assert 0.3 < sum(bool(mask.any()) for mask in masks) / 40 < 0.9  # six in ten keep something
    assert all((mask == 0).any() for mask in masks)
    assert all("<sfx>" not in prompt for batch in batches for prompt in batch.prompts)


def test_shorter_takes_are_the_beginnings_of_whole_ones(make_settings: Make) -> None:
    settings = make_settings(
        tasks={"inpaint_reference": {"weight": 1.0, "frames": [2], "batch": 3}},
        captions={"drop": 0.0, "drop_references": 0.0},
    )
    batch = batch_of(settings)
    assert batch.video is not None
    assert batch.audio is not None
    assert batch.keep_mask is not None
    assert batch.video_references is not None
    assert batch.video.shape[2] == batch.keep_mask.shape[2] == batch.geometry.latent_frames == 2
    assert batch.audio.shape[1] == batch.geometry.audio_tokens
    assert batch.video_references.latents.shape[2] == 1


def test_references_are_left_out_where_the_draw_says_so(make_settings: Make) -> None:
    batches = batches_of(settings_of(make_settings, "image_motion", drop_references=1.0), 3)
    assert all(batch.video_references is None for batch in batches)


MIXED = {
    "t2i": {"weight": 1.0},
    "t2av": {"weight": 1.0, "frames": [2]},
    "take": {"weight": 1.0, "sound": 0.5},
    "image_audio": {"weight": 1.0},
    "inpaint_subject": {"weight": 1.0, "sound": 0.5},
    "effect": {"weight": 1.0},
}


def test_families_have_their_place_in_the_position(make_settings: Make) -> None:
    source = BatchSource(make_settings(tasks=MIXED))
    position = Position()
    for batch, following in islice(source.ahead(Position()), 12):
        assert_same(batch, source.make(position))
        taken = batch.task.batch if batch.task.pool == "families" else 0
        assert following.families == position.families + taken
        position = following
    assert 0 < position.families < position.sample == position.families + position.clips + position.images


def test_a_resumed_run_on_families_is_bit_exact(make_settings: Make, tmp_path: Path) -> None:
    whole_run = run(make_settings(tasks=MIXED, run__sample_minutes=1e-9, run__folder=str(tmp_path / "whole")))
    parts = make_settings(tasks=MIXED, run__sample_minutes=1e-9, run__folder=str(tmp_path / "parts"))
    assert run(parts, show=StopAt(15)).reason == "interrupt"
    resumed = run(parts, resume=True)
    assert (whole_run.reason, resumed.reason) == ("done", "done")
    assert_same_checkpoints(whole_run.checkpoint, resumed.checkpoint)


def test_a_cache_of_takes_of_another_length_is_refused(make_settings: Make) -> None:
    settings = make_settings(tasks={"camera": {"weight": 1.0}}, data__family_frames=13)
    with pytest.raises(ValueError, match=r"32x32, 13 frames .* holds 32x32, 9 frames"):
        BatchSource(settings)
