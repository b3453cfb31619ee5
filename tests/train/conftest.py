"""A nano run: random latents on disk, everything in float32."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sky4.config import config_from_dict
from sky4.train.latent_cache import Manifest, write_black, write_shard
from sky4.train.settings import JointSettings
from tests.train.nano import ALL_TASKS, AUDIO_CHANNELS, CHANNELS, FRAMES, GRID, SHARD, TRANSFORMER


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of clips and of images."""
    folder = tmp_path_factory.mktemp("cache")
    manifest = Manifest("", 0, SHARD, 1, 1, 32, 32, FRAMES, "16", 44100, 1024, 8, 4, "video", "audio")
    random = np.random.default_rng(0)
    geometry = manifest.geometry(2)

    def latents(*shape: int) -> np.ndarray:
        return random.standard_normal((SHARD, *shape)).astype(np.float16)

    for shard in range(2):
        place = {"first": shard * SHARD, "count": SHARD}
        clips = {
            "video": latents(CHANNELS, geometry.latent_frames, GRID, GRID),
            "audio": latents(geometry.audio_tokens, AUDIO_CHANNELS),
            "image": latents(CHANNELS, 1, GRID, GRID),
            "hit": latents(3, AUDIO_CHANNELS),
        }
        write_shard(folder, shard, Manifest(**{**vars(manifest), "pool": "clips", **place}), clips)
        images = {"video": latents(CHANNELS, 1, GRID, GRID)}
        write_shard(folder, shard, Manifest(**{**vars(manifest), "pool": "images", **place}), images)
    write_black(folder, torch.zeros(1, CHANNELS, geometry.latent_frames, GRID, GRID))
    return folder


@pytest.fixture
def make_settings(cache: Path, tmp_path: Path) -> Callable[..., JointSettings]:
    """Settings of a nano run; keywords replace whole sections or single values ("run__compile")."""

    def make(**changes: Any) -> JointSettings:
        values: dict[str, Any] = {
            "codecs": {"video": "none", "audio": "none", "text": "none"},
            "preset": "nano",
            "transformer": TRANSFORMER,
            "clip": {"width": 32, "height": 32, "frames": FRAMES, "fps": 16},
            "data": {"cache": str(cache)},
            "tasks": ALL_TASKS,
            "batch": {"tokens": 400, "largest": 4, "text_tokens": 8},
            "schedule": {"samples": 40, "warmup": 8, "decay": 0.25},
            "run": {"folder": str(tmp_path / "run"), "device": "cpu", "autocast": "float32", "log_seconds": 1000.0},
        }
        for name, value in changes.items():
            section, _, key = name.partition("__")
            values[section] = {**values[section], key: value} if key else value
        return config_from_dict(JointSettings, values, "config")

    return make
