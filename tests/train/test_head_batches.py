"""Batches of talking heads: their sound is given, and a portrait, a beginning or both ends are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sky4.train.batches import BatchSource, LatentBatch, Position
from sky4.train.cache import encode_heads
from sky4.train.head_batches import OVERLAP, head_of, silent_head
from sky4.train.latent_cache import Manifest, write_black, write_shard
from sky4.train.objective import flow_loss
from sky4.train.settings import JointSettings
from sky4.world.render import render_video
from sky4.world.sound import render_speech_audio
from sky4.world.speech import sample_speech
from sky4.world.take import talking
from tests.train.nano import AUDIO_CHANNELS, CHANNELS, GRID, PixelCodec, encode, make_model

FRAMES, COUNT, T = 33, 8, 9
MANIFEST = Manifest("heads", 0, COUNT, 1, 3, 32, 32, FRAMES, "16", 44100, 1024, 8, 4, "video", "audio")
GEOMETRY = MANIFEST.geometry(2)


@pytest.fixture
def settings(make_settings: Callable[..., JointSettings], tmp_path: Path) -> JointSettings:
    """A run on a cache of eight heads; a portrait is all 9."""
    random = np.random.default_rng(0)
    arrays = {
        "video": random.standard_normal((COUNT, CHANNELS, T, GRID, GRID)).astype(np.float16),
        "audio": random.standard_normal((COUNT, GEOMETRY.audio_tokens, AUDIO_CHANNELS)).astype(np.float16),
        "portrait": np.full((COUNT, CHANNELS, 1, GRID, GRID), 9, np.float16),
    }
    write_shard(tmp_path, 0, MANIFEST, arrays)
    write_black(tmp_path, torch.zeros(1, CHANNELS, T, GRID, GRID))
    return make_settings(
        data={"cache": str(tmp_path), "heads": 100, "family_frames": FRAMES},
        clip={"width": 32, "height": 32, "frames": FRAMES, "fps": 16},
        tasks={"talk": {"weight": 1.0, "batch": 3}},
        captions={"drop": 0.0, "languages": {"en": 1.0}},
    )


def kept(batch: LatentBatch) -> tuple[int, ...]:
    assert batch.keep_mask is not None
    assert bool((batch.keep_mask == batch.keep_mask[:1, :, :, :1, :1]).all())  # whole frames, the same for all
    return tuple(int(frame) for frame in batch.keep_mask[0, 0, :, 0, 0].nonzero()[:, 0])


def test_heads_come_in_the_forms_that_windows_have(settings: JointSettings) -> None:
    source = BatchSource(settings)
    found, portraits = set(), set()
    for number in range(40):
        batch = source.make(Position(batch=number))
        found.add(kept(batch))
        assert batch.video is not None
        if kept(batch) == (0,):
            portraits.add(bool((batch.video[:, :, 0] == 9).all()))
        else:
            assert not bool((batch.video == 9).any())
    start = tuple(range(OVERLAP))
    assert found == {(0,), start, (*start, T - 1)}
    assert portraits == {True, False}


def test_the_sound_is_given_and_the_picture_alone_is_learned(settings: JointSettings) -> None:
    batch = BatchSource(settings).make(Position())
    assert bool((batch.audio_time == 1).all())
    assert not bool((batch.video_time == 1).all())
    assert all(" face talks" in prompt and "<dialogue>" not in prompt for prompt in batch.prompts)
    black = torch.zeros(1, CHANNELS, T, GRID, GRID)
    loss = flow_loss(make_model(settings), settings.transformer_config(), batch, encode(list(batch.prompts)), black)
    assert bool(loss.total.isfinite())
    assert loss.audio is None
    assert loss.video is not None


def test_the_cache_holds_a_head_and_what_it_says_from_one_moment_on() -> None:
    arrays = encode_heads(range(2, 6), MANIFEST, GEOMETRY, (PixelCodec(), PixelCodec()), torch.device("cpu"))  # type: ignore[arg-type]
    begins = []
    for row, index in enumerate(range(2, 6)):
        head, begin = head_of(1, index, GEOMETRY)
        begins.append(begin)
        shown = render_video([head], FRAMES, 16, 32, begin)[0].numpy()
        assert np.allclose(arrays["video"][row], shown, atol=1e-3)
        wave = render_speech_audio([head], GEOMETRY.audio_samples, 44100, begin)[0].numpy()
        assert np.allclose(arrays["audio"][row], wave, atol=1e-3)
        assert np.abs(wave).max() > 0.05
        still = render_video([head], 1, 1, 32)[0].numpy()
        assert np.allclose(arrays["portrait"][row], still, atol=1e-3)
    assert 0.0 in begins
    assert max(begins) > 0


def test_what_is_said_can_be_heard_from_any_moment_on() -> None:
    take = talking(silent_head(1, 0), sample_speech(1, 0, 4.0))
    whole = render_speech_audio([take], 4 * 8000, 8000)
    part = render_speech_audio([take], 8000, 8000, 1.5)
    assert torch.allclose(part, whole[..., 12000:20000], atol=1e-4)


def test_nobody_says_nothing() -> None:
    with pytest.raises(ValueError, match="without a talker"):
        talking(replace(silent_head(1, 0), talker=None), sample_speech(1, 0, 1.0))
