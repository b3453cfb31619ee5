"""The task mix: shares of samples, what is kept, batch sizes."""

from collections import Counter
from fractions import Fraction

import pytest

from sky4.geometry import ClipGeometry
from sky4.train.settings import BatchSettings, TaskSettings
from sky4.train.tasks import FAMILY_KINDS, KINDS, Task, TaskMix, batch_size, keep_mask, window
from sky4.world.families import ROWS

CLIP = ClipGeometry(64, 64, 81)
BATCH = BatchSettings(tokens=4096, largest=64, text_tokens=32)
ONE_OF_EACH = {kind: Task(kind, 2, 1) for kind in KINDS}


def mix(**tasks: TaskSettings) -> TaskMix:
    return TaskMix(tasks, BATCH, CLIP)


def test_samples_come_in_the_shares_of_the_weights() -> None:
    tasks = mix(t2i=TaskSettings(0.5), t2av=TaskSettings(0.3, frames=(5, 21)), t2a=TaskSettings(0.2))
    samples: Counter[str] = Counter()
    for number in range(6000):
        task = tasks.draw(3, number)
        samples[task.kind] += task.batch
    total = samples.total()
    assert {kind: round(count / total, 1) for kind, count in samples.items()} == {"t2i": 0.5, "t2av": 0.3, "t2a": 0.2}
    assert abs(samples["t2i"] / total - 0.5) < 0.02


def test_a_task_of_weight_nought_is_never_drawn() -> None:
    tasks = mix(t2i=TaskSettings(0.0), t2v=TaskSettings(1.0, frames=(5,)))
    assert {tasks.draw(1, number).kind for number in range(50)} == {"t2v"}


def test_a_window_of_latent_frames_is_the_causal_codec_s_first_pixel_frames() -> None:
    part = window(CLIP, 5)
    assert (part.frames, part.latent_frames, part.fps) == (17, 5, Fraction(16))
    assert part.audio_tokens == round(Fraction(17, 16) * 44100) // 1024


@pytest.mark.parametrize(("kind", "frames"), [("t2i", 1), ("t2av", 5), ("t2av", 21), ("t2a", 21)])
def test_a_batch_respects_the_token_budget(kind: str, frames: int) -> None:
    size = batch_size(Task(kind, frames, 1), BATCH, CLIP)
    geometry = window(CLIP, frames)
    media = {"t2i": geometry.video_tokens + 32, "t2a": geometry.audio_tokens + 32}
    assert size * media.get(kind, geometry.video_tokens + geometry.audio_tokens + 64) <= 4096
    assert 1 <= size <= 64


def kept(kind: str, frames: int = 4, keep: int = 1, first: float = 0.0, batch: int = 3) -> object:
    task = Task(kind, frames, batch, keep, first)  # type: ignore[arg-type]
    return keep_mask(task, (4, 4), 1, range(10, 10 + batch))


@pytest.mark.parametrize(
    ("kind", "keep", "expected"),
    [
        ("t2av", 1, [0, 0, 0, 0]),
        ("i2v", 1, [1, 0, 0, 0]),
        ("extend", 2, [1, 1, 0, 0]),
        ("backward", 2, [0, 0, 1, 1]),
        ("ends", 1, [1, 0, 0, 1]),
        ("drive", 1, [0, 0, 0, 0]),
        ("v2a", 1, [0, 0, 0, 0]),
    ],
)
def test_what_each_task_keeps(kind: str, keep: int, expected: list[int]) -> None:
    mask = kept(kind, keep=keep)
    assert mask.shape == (3, 1, 4, 4, 4)  # type: ignore[attr-defined]
    assert mask.amin((0, 1, 3, 4)).tolist() == mask.amax((0, 1, 3, 4)).tolist() == expected  # type: ignore[attr-defined]


def test_masks_leave_something_to_keep_and_something_to_make_in_most_samples() -> None:
    mask = kept("mask", frames=6, batch=200)
    shares = mask.flatten(1).mean(1)  # type: ignore[attr-defined]
    assert (shares < 1).all()
    assert ((shares > 0) & (shares < 1)).float().mean() > 0.9
    assert set(mask.unique().tolist()) == {0.0, 1.0}  # type: ignore[attr-defined]


def test_a_share_of_driven_samples_keeps_its_first_frame() -> None:
    mask = kept("drive", first=0.5, batch=300)
    share = mask[:, 0, 0].amin((1, 2)).mean()  # type: ignore[index]
    assert 0.4 < share < 0.6
    assert not mask[:, 0, 1:].any()  # type: ignore[index]


def test_masks_do_not_depend_on_the_batch() -> None:
    task = Task("mask", 4, 6)
    whole = keep_mask(task, (4, 4), 1, range(6))
    assert (keep_mask(Task("mask", 4, 2), (4, 4), 1, range(2, 4)) == whole[2:4]).all()


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown task 'tasks.t2x'; use one of t2i, t2v"):
        mix(t2x=TaskSettings(1.0))


def test_lengths_beyond_the_clip_are_refused() -> None:
    with pytest.raises(ValueError, match="tasks.t2v.frames must lie between 1 and the 21 latent frames that there are"):
        mix(t2v=TaskSettings(1.0, frames=(22,)))


def test_towers_and_losses_of_every_task() -> None:
    rows = {kind: Task(kind, 2, 1) for kind in KINDS if kind not in ROWS}
    assert [k for k, task in rows.items() if not task.has_audio] == ["t2i", "t2v", "keyframes"]
    assert [k for k, task in rows.items() if not task.has_video] == ["t2a"]
    assert [k for k, task in rows.items() if not task.trains_video] == ["t2a", "v2a"]
    assert [k for k, task in rows.items() if not task.trains_audio] == ["t2i", "t2v", "drive", "keyframes", "talk"]


def test_every_row_of_the_table_is_a_kind_of_its_own() -> None:
    assert len(ROWS) == 18
    assert set(KINDS) == {*FAMILY_KINDS, *(kind for kind, task in ONE_OF_EACH.items() if task.pool != "families")}
    assert {kind for kind, task in ONE_OF_EACH.items() if task.pool == "families"} == {*FAMILY_KINDS}
    assert [kind for kind, task in ONE_OF_EACH.items() if task.pool == "images"] == ["t2i"]


@pytest.mark.parametrize(
    ("kind", "grids"),  # what a sample of 9 latent frames of 16 tokens holds, in tokens of video
    [
        ("removal", 9 * 16 * 2),  # target and source
        ("same", 9 * 16 * 2),
        ("image_motion", 9 * 16 * 2 + 16),  # and a picture
        ("inpaint_reference", 9 * 16 + 16),
        ("inpaint_subject", 9 * 16),
    ],
)
def test_references_count_towards_the_token_budget(kind: str, grids: int) -> None:
    task = Task(kind, 9, 1, sound=False)
    assert batch_size(task, BATCH, CLIP) == 4096 // (grids + 32)


def test_rows_come_with_sound_and_without_in_the_asked_share_and_silent_rows_never() -> None:
    tasks = {"camera": TaskSettings(0.5, sound=0.25), "effect": TaskSettings(0.5, sound=1.0)}
    drawn = TaskMix(tasks, BATCH, CLIP, family_frames=9)
    samples: Counter[tuple[str, bool]] = Counter()
    for number in range(4000):
        task = drawn.draw(5, number)
        assert task.frames == 9
        samples[task.kind, task.has_audio] += task.batch
    total = samples.total()
    assert samples["effect", True] == 0
    assert abs(samples["effect", False] / total - 0.5) < 0.03
    assert abs(samples["camera", True] / (samples["camera", True] + samples["camera", False]) - 0.25) < 0.03


def test_families_are_as_long_as_their_takes_and_no_longer() -> None:
    tasks = {"camera": TaskSettings(1.0, frames=(10,))}
    with pytest.raises(ValueError, match="tasks.camera.frames must lie between 1 and the 9 latent frames"):
        TaskMix(tasks, BATCH, CLIP, family_frames=9)
    assert TaskMix({"camera": TaskSettings(1.0, frames=(5,))}, BATCH, CLIP, 9).tasks[0].frames == 5
