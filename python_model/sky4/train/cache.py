"""Fills the cache of latents: scenes are rendered, encoded by the frozen codecs, and kept as float16 shards.

Every shard is a function of the settings and its number, so that any number of processes may share the work: each
takes its own shards and leaves out those that exist.

Legend: B scenes, F frames, S samples.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from torch import Tensor

from sky4.conditioning.inpaint import keep_where
from sky4.encoders.protocols import AudioCodec, VideoCodec
from sky4.errors import Sky4Failure
from sky4.geometry import ClipGeometry
from sky4.train.head_batches import encode_heads
from sky4.train.keyed import generator
from sky4.train.latent_cache import Manifest, Pool, read_manifest, shard_path, write_black, write_shard
from sky4.train.pairs import PairShape, encode_pairs
from sky4.train.settings import JointSettings
from sky4.train.story_batches import encode_stories
from sky4.world.families import SOUNDS, STILLS, VIDEOS, Family, sample_family
from sky4.world.judge import edit_mask
from sky4.world.render import render_video
from sky4.world.scene import CLIP_SECONDS, Scene, sample_scene
from sky4.world.sound import render_audio

DECODING = ("decoder.", "post_quant_conv.")  # parts of a codec that no latent depends on
HIT_SECONDS = Fraction(1, 2)  # of an audio reference
HIT_LEAD = 0.05  # seconds of silence before its hit
CLIPS_AT_ONCE, IMAGES_AT_ONCE = 8, 128

Encoders = tuple[VideoCodec, AudioCodec]
Arrays = dict[str, npt.NDArray[np.float16]]


def fill_cache(
    settings: JointSettings,
    codecs: Encoders,
    digests: tuple[str, str],
    device: torch.device,
    *,
    part: tuple[int, int] = (0, 1),
    max_minutes: float | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Write the missing shards of clips and images; returns how many were written.

    part: (i, n): this process makes the shards whose number is i modulo n. Raises Sky4Failure where the cache already
    holds latents of other codecs or clips.
    """
    folder, data = Path(settings.data.cache), settings.data
    folder.mkdir(parents=True, exist_ok=True)
    manifest = cache_manifest(settings, codecs, digests)
    geometry = manifest.geometry(settings.transformer_config().patch)
    for path in folder.glob("*-*.json"):
        if not read_manifest(path).fits(manifest):
            raise Sky4Failure(f"{path} comes from other codecs or clips: choose another data.cache or remove {folder}")
    black = codecs[0].black(geometry.frames, geometry.height, geometry.width)
    write_black(folder, black)
    began, written = time.monotonic(), 0
    pools: tuple[tuple[Pool, int, int], ...] = (
        ("images", data.images, data.shard),
        ("clips", data.clips, data.shard),
        ("families", data.families, data.family_shard),
        ("pairs", data.pairs, data.pair_shard),
        ("stories", data.stories, data.shard),
        ("heads", data.heads, data.shard),
    )
    for pool, wanted, size in pools:
        for shard in range(part[0], -(-wanted // size), part[1]):
            if shard_path(folder, pool, shard, ".json").exists():
                continue
            if max_minutes is not None and time.monotonic() - began > 60 * max_minutes:
                return written
            indices = range(shard * size, (shard + 1) * size)
            started = time.monotonic()
            made, arrays = _encoded(pool, indices, manifest, settings, codecs, device)
            write_shard(folder, shard, replace(made, pool=pool, first=indices[0], count=len(indices)), arrays)
            written += 1
            rate = len(indices) / (time.monotonic() - started)
            say(f"{pool} {shard + 1}/{-(-wanted // size)}: {rate:.1f}/s")
    return written


def _encoded(
    pool: Pool, indices: range, manifest: Manifest, settings: JointSettings, codecs: Encoders, device: torch.device
) -> tuple[Manifest, Arrays]:
    """(the shard's manifest, its arrays)."""
    patch = settings.transformer_config().patch
    if pool == "images":
        return manifest, encode_images(indices, manifest, codecs, device)
    if pool == "clips":
        return manifest, encode_clips(indices, manifest, manifest.geometry(patch), codecs, device)
    data = settings.data
    if pool == "pairs":
        manifest = replace(manifest, frames=data.pair_frames)
        shape = PairShape(manifest.height, data.pair_frames, int(settings.clip.fps), data.pair_scale)
        arrays = encode_pairs(manifest.scene_seed, indices, shape, manifest.level, codecs[0], device)
        return manifest, arrays
    manifest = replace(manifest, level=data.family_level)
    if pool == "heads":
        return manifest, encode_heads(indices, manifest, manifest.geometry(patch), codecs, device)
    manifest = replace(manifest, frames=data.family_frames)
    if pool == "stories":
        return manifest, encode_stories(indices, manifest, manifest.geometry(patch), codecs, device)
    return manifest, encode_families(indices, manifest, manifest.geometry(patch), codecs, device)


def cache_manifest(settings: JointSettings, codecs: Encoders, digests: tuple[str, str]) -> Manifest:
    video, audio = codecs
    clip, data = settings.clip, settings.data
    if clip.width != clip.height:
        raise ValueError(f"the world is square: clip.width and clip.height must agree, got {clip.width}x{clip.height}")
    return Manifest(
        pool="",
        first=0,
        count=0,
        scene_seed=data.scene_seed,
        level=data.level,
        width=clip.width,
        height=clip.height,
        frames=clip.frames,
        fps=str(clip.fps),
        sample_rate=audio.sample_rate,
        hop=audio.hop,
        spatial_compression=video.spatial_compression,
        temporal_compression=video.temporal_compression,
        video_codec=digests[0],
        audio_codec=digests[1],
    )


def encode_clips(
    indices: range, manifest: Manifest, geometry: ClipGeometry, codecs: Encoders, device: torch.device
) -> Arrays:
    """video [S, C, T, H, W], audio [S, A, C_a], and the references: image [S, C, 1, H, W], hit [S, A_r, C_a]."""
    rows: dict[str, list[Tensor]] = {name: [] for name in ("video", "audio", "image", "hit")}
    for at in range(0, len(indices), CLIPS_AT_ONCE):
        some = indices[at : at + CLIPS_AT_ONCE]
        scenes = [sample_scene(manifest.scene_seed, index, "train", manifest.level) for index in some]
        pixels = render_video(scenes, geometry.frames, geometry.fps, geometry.height, device=device)
        rows["video"].append(codecs[0].encode(pixels).cpu())
        wave = render_audio(scenes, geometry.audio_samples, geometry.sample_rate)
        rows["audio"].append(codecs[1].encode(wave.to(device)).cpu())
        others = [reference_scene(scene) for scene in scenes]
        times = [
            float(generator(scene.seed, "reference time", scene.index).uniform(0, CLIP_SECONDS)) for scene in scenes
        ]
        rows["image"].append(codecs[0].encode(_stills(others, times, geometry.height, device)).cpu())
        hits = [_before(other) for other in others]
        wave = render_audio(others, round(HIT_SECONDS * geometry.sample_rate), geometry.sample_rate, hits)
        rows["hit"].append(codecs[1].encode(wave.to(device)).cpu())
    return _arrays(rows)


def encode_images(indices: range, manifest: Manifest, codecs: Encoders, device: torch.device) -> Arrays:
    """video [S, C, 1, H, W]: each scene at a random time."""
    rows: list[Tensor] = []
    for at in range(0, len(indices), IMAGES_AT_ONCE):
        some = indices[at : at + IMAGES_AT_ONCE]
        scenes = [sample_scene(manifest.scene_seed, index, "train", manifest.level) for index in some]
        times = [float(generator(scene.seed, "image time", scene.index).uniform(0, CLIP_SECONDS)) for scene in scenes]
        rows.append(codecs[0].encode(_stills(scenes, times, manifest.height, device)).cpu())
    return _arrays({"video": rows})


def encode_families(
    indices: range, manifest: Manifest, geometry: ClipGeometry, codecs: Encoders, device: torch.device
) -> Arrays:
    """Of every family: video [S, V, C, T, H, W] in the order of VIDEOS, still [S, 3, C, 1, H, W] of STILLS, audio
    [S, 3, A, C_a] of SOUNDS, hit [S, 1, A_r, C_a] of the newcomer, region [S, 1, T, H, W]: 1 where the moving thing is.
    """
    rows: dict[str, list[Tensor]] = {name: [] for name in ("video", "still", "audio", "hit", "region")}
    for index in indices:
        family = sample_family(manifest.scene_seed, index, "train", manifest.level)
        takes = [family.takes[name] for name in VIDEOS]
        begins = [family.begins(name) for name in VIDEOS]
        pixels = render_video(takes, geometry.frames, geometry.fps, geometry.height, begins, device)
        rows["video"].append(codecs[0].encode(pixels).cpu()[None])
        shown, moments = zip(*(family.stills[name] for name in STILLS), strict=True)
        stills = render_video(shown, 1, 1, geometry.height, moments, device)
        rows["still"].append(codecs[0].encode(stills).cpu()[None])
        heard = [family.sounding(name) for name in SOUNDS]
        begins = [family.begins(name) for name in SOUNDS]
        wave = render_audio(heard, geometry.audio_samples, geometry.sample_rate, begins)
        rows["audio"].append(codecs[1].encode(wave.to(device)).cpu()[None])
        new = family.newcomer
        hit = render_audio([new], round(HIT_SECONDS * geometry.sample_rate), geometry.sample_rate, [_before(new)])
        rows["hit"].append(codecs[1].encode(hit.to(device)).cpu()[None])
        rows["region"].append(region_cells(family, geometry)[None])
    return _arrays(rows)


def region_cells(family: Family, geometry: ClipGeometry) -> Tensor:
    """[1, T, H, W]: 1 where the base take's moving thing, or what lies within its margin, touches a latent cell."""
    time = torch.arange(geometry.frames, dtype=torch.float32) / float(geometry.fps)
    edited = edit_mask(family.base, "thing", time, geometry.height).float()[None, None]
    return 1 - keep_where(1 - edited, geometry.spatial_compression, geometry.temporal_compression)[0]


def _before(scene: Scene) -> float:
    return scene.first - HIT_LEAD


def reference_scene(scene: Scene) -> Scene:
    """The same object and material in another scene: other place, way, background, rhythm."""
    other = sample_scene(scene.seed ^ 0x5EED, scene.index, "train", scene.level)
    return replace(other, shape=scene.shape, colour=scene.colour, size=scene.size, material=scene.material)


def codec_digest(folder: Path) -> str:
    """SHA-256 over what of a codec folder makes latents: its configuration, and all weights but the decoder's."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors")):
        if file.suffix == ".json":
            digest.update(f"{file.name}:{file.stat().st_size}\n".encode() + file.read_bytes())
            continue
        with safe_open(file, "pt") as weights:
            for name in sorted(weights.keys()):
                if not name.startswith(DECODING):
                    weight = weights.get_tensor(name)
                    digest.update(f"{name}:{weight.dtype}:{tuple(weight.shape)}\n".encode())
                    digest.update(weight.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def _stills(scenes: list[Scene], times: list[float], size: int, device: torch.device) -> Tensor:
    return render_video(scenes, 1, 1, size, times, device)


def _arrays(rows: dict[str, list[Tensor]]) -> Arrays:
    return {name: torch.cat(parts).to(torch.float16).numpy() for name, parts in rows.items()}
