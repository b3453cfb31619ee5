"""A nano run: random latents on disk, everything in float32."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sky4.config import config_from_dict
from sky4.geometry import ClipGeometry
from sky4.train.latent_cache import Manifest, write_black, write_shard
from sky4.train.settings import JointSettings
from sky4.world.families import SOUNDS, STILLS, VIDEOS
from tests.train.nano import (
    ALL_TASKS,
    AUDIO_CHANNELS,
    CHANNELS,
    FAMILY_FRAMES,
    FAMILY_SHARD,
    FRAMES,
    GRID,
    PAIR_FRAMES,
    SHARD,
    TRANSFORMER,
)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of clips, of images and of families."""
    folder = tmp_path_factory.mktemp("cache")
    manifest = Manifest("", 0, SHARD, 1, 1, 32, 32, FRAMES, "16", 44100, 1024, 8, 4, "video", "audio")
    random = np.random.default_rng(0)
    geometry = manifest.geometry(2)

    takes = replace(manifest, frames=FAMILY_FRAMES, level=3)

    def latents(*shape: int, count: int = SHARD) -> np.ndarray:
        return random.standard_normal((count, *shape)).astype(np.float16)

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
        pairs = {
            "video": latents(CHANNELS, 3, GRID, GRID),
            "worn": latents(CHANNELS, 3, GRID, GRID),
            "high": latents(CHANNELS, 5, 2 * GRID, 2 * GRID),
        }
        short = replace(manifest, pool="pairs", frames=PAIR_FRAMES, first=shard * SHARD)
        write_shard(folder, shard, short, pairs)
    for shard in range(2):
        write_shard(folder, shard, _family_manifest(takes, shard), _families(latents, takes.geometry(2), random))
    write_black(folder, torch.zeros(1, CHANNELS, geometry.latent_frames, GRID, GRID))
    return folder


def _family_manifest(takes: Manifest, shard: int) -> Manifest:
    return replace(takes, pool="families", first=shard * FAMILY_SHARD, count=FAMILY_SHARD)


def _families(
    latents: Callable[..., np.ndarray], geometry: ClipGeometry, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """What `encode_families` makes of a shard; each region has cells of both kinds in every frame."""
    frames, count = geometry.latent_frames, FAMILY_SHARD
    region = (random.random((count, 1, frames, GRID, GRID)) < 0.5).astype(np.float16)
    region[..., 0, 0], region[..., 1, 1] = 0.0, 1.0
    return {
        "video": latents(len(VIDEOS), CHANNELS, frames, GRID, GRID, count=count),
        "still": latents(len(STILLS), CHANNELS, 1, GRID, GRID, count=count),
        "audio": latents(len(SOUNDS), geometry.audio_tokens, AUDIO_CHANNELS, count=count),
        "hit": latents(1, 3, AUDIO_CHANNELS, count=count),
        "region": region,
    }


@pytest.fixture
def make_settings(cache: Path, tmp_path: Path) -> Callable[..., JointSettings]:
    """Settings of a nano run; keywords replace whole sections or single values ("run__compile")."""

    def make(**changes: Any) -> JointSettings:
        values: dict[str, Any] = {
            "codecs": {"video": "none", "audio": "none", "text": "none"},
            "preset": "nano",
            "transformer": TRANSFORMER,
            "clip": {"width": 32, "height": 32, "frames": FRAMES, "fps": 16},
            "data": {
                "cache": str(cache),
                "families": 100,
                "family_frames": FAMILY_FRAMES,
                "pairs": 100,
                "pair_frames": PAIR_FRAMES,
            },
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
