"""The cache: shards are functions of their number, complete or absent, never of two origins."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sky4.config import config_from_dict
from sky4.errors import Sky4Failure
from sky4.geometry import ClipGeometry
from sky4.train.cache import codec_digest, encode_clips, encode_images, fill_cache, reference_scene, region_cells
from sky4.train.latent_cache import LatentPool, read_black, read_manifest
from sky4.train.settings import JointSettings
from sky4.world.families import SOUNDS, STILLS, VIDEOS, sample_family
from sky4.world.render import render_coverage, render_video
from sky4.world.scene import sample_scene
from sky4.world.sound import render_audio

Make = Callable[..., JointSettings]
DEVICE = torch.device("cpu")


class AverageVideo:
    """A codec that is a mean: 8x8 pixels and groups of 1, 4, 4, ... frames."""

    channels, spatial_compression, temporal_compression = 3, 8, 4

    def encode(self, pixels: Tensor) -> Tensor:
        groups = [pixels[:, :, :1], *pixels[:, :, 1:].split(4, dim=2)]
        frames = torch.stack([group.mean(2) for group in groups if group.shape[2]], dim=2)
        return torch.nn.functional.avg_pool3d(frames, (1, 8, 8))

    def black(self, frames: int, height: int, width: int) -> Tensor:
        return self.encode(-torch.ones(1, 3, frames, height, width))


class LoudnessAudio:
    channels, sample_rate, hop = 2, 44100, 1024

    def encode(self, wave: Tensor) -> Tensor:
        return wave[..., : wave.shape[-1] // 1024 * 1024].unflatten(-1, (-1, 1024)).square().mean(-1).transpose(1, 2)


CODECS: Any = (AverageVideo(), LoudnessAudio())


@pytest.fixture
def settings(tmp_path: Path) -> JointSettings:
    return config_from_dict(
        JointSettings,
        {
            "codecs": {"video": "v", "audio": "a", "text": "t"},
            "clip": {"width": 32, "height": 32, "frames": 9, "fps": 16},
            "data": {"cache": str(tmp_path / "cache"), "clips": 6, "images": 5, "shard": 2},
            "tasks": {"t2av": {"weight": 1.0}},
            "schedule": {"samples": 1},
            "run": {"folder": "r"},
        },
        "config",
    )


@pytest.fixture
def family_settings(settings: JointSettings) -> JointSettings:
    more = {"families": 3, "family_frames": 5, "family_shard": 2, "clips": 2, "images": 0}
    return replace(settings, data=replace(settings.data, **more))


def fill(settings: JointSettings, digests: tuple[str, str] = ("v", "a"), part: tuple[int, int] = (0, 1)) -> int:
    return fill_cache(settings, CODECS, digests, DEVICE, part=part, say=lambda _: None)


def files(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_two_processes_make_what_one_makes_and_present_shards_stay(settings: JointSettings) -> None:
    assert fill(settings, part=(0, 2)) == 4
    assert fill(settings, part=(1, 2)) == 2
    shared = files(settings.data.cache)
    assert fill(settings) == 0
    for path in Path(settings.data.cache).iterdir():
        path.unlink()
    assert fill(settings) == 6
    assert files(settings.data.cache) == shared
    assert not [name for name in shared if name.endswith(".partial")]


def test_latents_are_of_the_scenes_that_the_pool_names(settings: JointSettings) -> None:
    fill(settings)
    pool = LatentPool(Path(settings.data.cache), "clips", 100)
    assert pool.count == 6
    geometry = pool.manifest.geometry(2)
    items = np.array([4, 1])
    assert pool.scenes(items).tolist() == [4, 1]
    expected = encode_clips(range(4, 5), pool.manifest, geometry, CODECS, DEVICE)
    for name, array in expected.items():
        assert np.array_equal(pool.read(name, items)[0].numpy(), array[0].astype(np.float32)), name
    assert pool.read("video", items).shape == (2, 3, geometry.latent_frames, 4, 4)
    assert pool.read("audio", items).shape == (2, geometry.audio_tokens, 2)
    assert torch.equal(pool.read("audio", items, 5), pool.read("audio", items)[:, :5])
    assert read_black(Path(settings.data.cache)).unique().tolist() == [-1.0]


def test_images_are_single_frames_at_different_times(settings: JointSettings) -> None:
    fill(settings)
    pool = LatentPool(Path(settings.data.cache), "images", 4)
    assert pool.count == 4
    assert pool.shape("video") == (3, 1, 4, 4)
    one = encode_images(range(2, 3), pool.manifest, CODECS, DEVICE)["video"]
    assert np.array_equal(pool.read("video", np.array([2])).numpy(), one.astype(np.float32))


def test_families_are_encoded_take_by_take(family_settings: JointSettings) -> None:
    assert fill(family_settings) == 3  # one of clips, two of families
    folder = Path(family_settings.data.cache)
    pool = LatentPool(folder, "families", 100)
    assert (pool.count, pool.level, pool.manifest.frames) == (4, 3, 5)
    geometry = pool.manifest.geometry(2)
    family, item = sample_family(1, 2), np.array([2])
    assert pool.scenes(item).tolist() == [2]
    for place, name in enumerate(VIDEOS):
        wanted = CODECS[0].encode(render_video([family.takes[name]], 5, 16, 32, family.begins(name)))
        assert torch.equal(pool.read_at("video", item, place), wanted.half().float()), name
    for place, name in enumerate(STILLS):
        take, moment = family.stills[name]
        wanted = CODECS[0].encode(render_video([take], 1, 1, 32, moment))
        assert torch.equal(pool.read_at("still", item, place), wanted.half().float()), name
    for place, thing in enumerate((family.subject, family.newcomer, family.takes["onward"].things[-1])):
        begins = family.begins(SOUNDS[place])
        wanted = CODECS[1].encode(render_audio([thing], geometry.audio_samples, 44100, begins))
        assert torch.equal(pool.read_at("audio", item, place), wanted.half().float())
    shapes = {name: pool.shape(name) for name in ("video", "still", "audio", "hit", "region")}
    assert shapes == {
        "video": (len(VIDEOS), 3, 2, 4, 4),
        "still": (len(STILLS), 3, 1, 4, 4),
        "audio": (3, geometry.audio_tokens, 2),
        "hit": (1, 22050 // 1024, 2),
        "region": (1, 2, 4, 4),
    }
    regions = pool.read("region", np.arange(4))
    assert set(regions.unique().tolist()) == {0.0, 1.0}
    hits = pool.read("hit", np.arange(4))[:, 0]
    assert (hits.amax((1, 2)) > 1e-3).all()
    assert (hits[:, 0] < 1e-6).all()  # it begins in silence
    assert LatentPool(folder, "clips", 10).manifest.frames == 9
    assert fill(family_settings) == 0


def test_a_cell_of_the_region_is_one_that_the_thing_or_its_margin_touches() -> None:
    geometry = ClipGeometry(32, 32, 5)
    for index in range(4):
        family = sample_family(1, index)
        covered = render_coverage(family.base, -1, torch.arange(5) / 16, 32).numpy() > 0
        wanted = np.zeros((2, 4, 4))
        for frame, y, x in np.argwhere(covered):
            for dy in range(-2, 3):  # 3/64 of 32 pixels, rounded
                for dx in range(-2, 3):
                    if 0 <= y + dy < 32 and 0 <= x + dx < 32:
                        wanted[(frame + 3) // 4, (y + dy) // 8, (x + dx) // 8] = 1
        assert np.array_equal(region_cells(family, geometry)[0].numpy(), wanted)


def test_a_shard_without_its_manifest_is_made_anew(settings: JointSettings) -> None:
    fill(settings)
    (Path(settings.data.cache) / "clips-00001.json").unlink()  # killed before its last file
    assert LatentPool(Path(settings.data.cache), "clips", 100).count == 4
    assert fill(settings) == 1


def test_latents_of_other_codecs_are_never_mixed_in(settings: JointSettings) -> None:
    fill(settings)
    with pytest.raises(Sky4Failure, match="comes from other codecs or clips"):
        fill(settings, digests=("another", "a"))
    path = Path(settings.data.cache) / "clips-00000.json"
    path.write_text(path.read_text().replace('"audio_codec": "a"', '"audio_codec": "b"'))
    with pytest.raises(Sky4Failure, match="remove one kind"):
        LatentPool(Path(settings.data.cache), "clips", 100)


def test_a_manifest_that_is_none_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "clips-00000.json").write_text('{"format": "other", "version": 1}')
    with pytest.raises(Sky4Failure, match="no manifest of latents of this version"):
        read_manifest(tmp_path / "clips-00000.json")


def test_a_reference_shows_the_same_object_elsewhere() -> None:
    for index in range(20):
        scene = sample_scene(1, index)
        other = reference_scene(scene)
        same = ("shape", "colour", "size", "material")
        assert [getattr(other, name) for name in same] == [getattr(scene, name) for name in same]
        assert (other.x0, other.period) != (scene.x0, scene.period)


def test_an_audio_reference_holds_its_hit(settings: JointSettings) -> None:
    fill(settings)
    hits = LatentPool(Path(settings.data.cache), "clips", 6).read("hit", np.arange(6))
    assert (hits.amax((1, 2)) > 1e-3).all()
    assert (hits[:, 0] < 1e-6).all()  # it begins in silence


def test_a_codec_s_digest_tells_encoders_apart_and_no_decoders(tmp_path: Path) -> None:
    def digest(**weights: float) -> str:
        named = {f"{name}.weight": torch.tensor([value]) for name, value in weights.items()}
        save_file(named, tmp_path / "model.safetensors")
        return codec_digest(tmp_path)

    (tmp_path / "config.json").write_text("{}")
    before = digest(encoder=1, quant_conv=1, decoder=1, post_quant_conv=1)
    assert digest(encoder=1, quant_conv=1, decoder=2, post_quant_conv=2) == before
    changed = {digest(encoder=2, quant_conv=1, decoder=1), digest(encoder=1, quant_conv=2, decoder=1)}
    (tmp_path / "config.json").write_text("[]")
    changed.add(digest(encoder=1, quant_conv=1, decoder=1, post_quant_conv=1))
    assert len(changed | {before}) == 4
