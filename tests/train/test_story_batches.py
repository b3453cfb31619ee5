"""Batches of stories: both shots or the second alone, the switch at its place in time, and the words for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sky4.conditioning.reprojection import VIEWS, View, seen
from sky4.shots.words import read_switches
from sky4.train.batches import BatchSource, LatentBatch, Position
from sky4.train.cache import encode_stories
from sky4.train.latent_cache import Manifest, write_black, write_shard
from sky4.train.objective import audio_input, condition_of, flow_loss, video_input
from sky4.train.settings import JointSettings
from sky4.train.story_batches import story_of_two
from sky4.world.render import render_video
from sky4.world.sound import render_story_audio
from tests.train.nano import AUDIO_CHANNELS, CHANNELS, GRID, PixelCodec, encode, make_model

FRAMES, COUNT = 33, 8
T = 9
MANIFEST = Manifest("stories", 0, COUNT, 1, 3, 32, 32, FRAMES, "16", 44100, 1024, 8, 4, "video", "audio")
GEOMETRY = MANIFEST.geometry(2)


@pytest.fixture
def settings(make_settings: Callable[..., JointSettings], tmp_path: Path) -> Callable[[str], JointSettings]:
    """A run of one kind on a cache of eight stories."""
    random = np.random.default_rng(0)
    arrays = {
        "video": random.standard_normal((COUNT, CHANNELS, T, GRID, GRID)).astype(np.float16),
        "audio": random.standard_normal((COUNT, GEOMETRY.audio_tokens, AUDIO_CHANNELS)).astype(np.float16),
        "second": random.standard_normal((COUNT, CHANNELS, 4, GRID, GRID)).astype(np.float16),
        "guess": random.standard_normal((COUNT, CHANNELS, 1, GRID, GRID)).astype(np.float16),
    }
    write_shard(tmp_path, 0, MANIFEST, arrays)
    write_black(tmp_path, torch.zeros(1, CHANNELS, T, GRID, GRID))

    def call(kind: str, **task: Any) -> JointSettings:
        return make_settings(
            data={"cache": str(tmp_path), "stories": 100, "family_frames": FRAMES},
            clip={"width": 32, "height": 32, "frames": FRAMES, "fps": 16},
            tasks={kind: {"weight": 1.0, "batch": 3, **task}},
            captions={"drop": 0.0, "drop_references": 0.0, "languages": {"en": 1.0}},
        )

    return call


def made(settings: JointSettings) -> LatentBatch:
    return BatchSource(settings).make(Position())


def test_a_transition_keeps_the_first_shot_and_leaves_a_gap_behind_it(settings) -> None:
    run = settings("transition")
    batch = made(run)
    assert batch.keep_mask is not None
    assert batch.keep_mask[0, 0, :, 0, 0].tolist() == [1] * 5 + [0] * 4
    assert batch.switch is not None
    assert batch.switch.frame == 5
    stored = {name: np.load(Path(run.data.cache) / f"stories-00000.{name}.npy") for name in ("video", "second")}
    whole = np.concatenate((stored["video"][:, :, :5], stored["second"]), axis=2)
    assert batch.video is not None
    assert all(any(np.array_equal(row, one) for one in whole) for row in batch.video.half().numpy())
    config = run.transformer_config()
    black = torch.zeros(1, CHANNELS, T, GRID, GRID)
    seen, heard = video_input(config, batch, condition_of(config, batch, black), black), audio_input(config, batch)
    assert seen is not None
    assert heard is not None
    times = seen.positions[:, 0].unique().tolist()
    assert times == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    steps = heard.positions[:, 0].diff()
    scale = float(GEOMETRY.audio_rope_scale)
    assert int((steps > scale + 0.5).sum()) == 1
    guesses = np.load(Path(run.data.cache) / "stories-00000.guess.npy")
    assert batch.guess is not None
    assert batch.guess.part(slice(1, 3)).latents.shape == (2, CHANNELS, 1, GRID, GRID)
    assert all(any(np.array_equal(row, one) for one in guesses) for row in batch.guess.latents.half().numpy())
    offset = condition_of(config, batch, black).offset  # type: ignore[union-attr]
    assert (offset is None) == (not config.guide)
    for prompt, known in zip(batch.prompts, batch.guess.known.tolist(), strict=True):
        (said,) = read_switches(prompt)
        assert known == (said in VIEWS)
    model = make_model(run)
    loss = flow_loss(model, config, batch, encode(list(batch.prompts)), torch.zeros(1, CHANNELS, T, GRID, GRID))
    assert bool(loss.total.isfinite())


def test_a_story_is_made_whole_from_one_caption(settings) -> None:
    batch = made(settings("story", sound=0.0))
    assert batch.switch is None
    assert batch.audio is None
    assert batch.keep_mask is not None
    assert not batch.keep_mask.any()
    assert all("[Shot 2]" in prompt for prompt in batch.prompts)


def test_a_silent_transition_is_asked_for_with_and_without_words_for_its_sound(settings) -> None:
    source, position, prompts = BatchSource(settings("transition", sound=0.0)), Position(), []
    for _ in range(12):
        batch = source.make(position)
        position = position.after(batch.task)
        prompts += batch.prompts
    assert 0.2 < np.mean(["<sfx>" in prompt for prompt in prompts]) < 0.8


def test_stories_are_cut_where_a_latent_frame_ends() -> None:
    for index in range(30):
        story = story_of_two(1, index, GEOMETRY, 3)
        assert story.joins[0].begin * 16 == 16.5  # frame 17 is the first of the second shot
    with pytest.raises(ValueError, match="a shot begins with frame"):
        story_of_two(1, 0, replace(GEOMETRY, fps=GEOMETRY.fps * 5 / 4), 3)


def test_a_part_of_a_story_is_no_story(settings) -> None:
    with pytest.raises(ValueError, match=r"tasks.transition.frames must be 9, all that the stories have, got \[5\]"):
        BatchSource(settings("transition", frames=[5]))


def test_the_cache_holds_what_is_drawn_and_heard() -> None:
    arrays = encode_stories(range(2, 4), MANIFEST, GEOMETRY, (PixelCodec(), PixelCodec()), torch.device("cpu"))  # type: ignore[arg-type]
    story = story_of_two(1, 3, GEOMETRY, 3)
    assert np.allclose(arrays["video"][1], render_video([story], FRAMES, 16, 32)[0].numpy(), atol=1e-3)
    shots = render_video([story], FRAMES, 16, 32)[0].split([17, 16], dim=1)
    assert np.allclose(arrays["second"][1], shots[1].numpy(), atol=1e-3)
    view = VIEWS.get(story.joins[0].content, View(1.0))
    assert np.allclose(arrays["guess"][1, :, 0], seen(shots[0], view).numpy(), atol=1e-3)
    wave = render_story_audio([story], GEOMETRY.audio_samples)[0].numpy()
    assert np.allclose(arrays["audio"][1], wave, atol=1e-3)
