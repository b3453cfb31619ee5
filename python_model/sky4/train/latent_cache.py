"""The cache of latents on disk: plain .npy shards, each with a manifest, written by any number of processes.

A folder holds clips-00012.video.npy [S, C, T, H, W], clips-00012.audio.npy [S, A, C_a], clips-00012.image.npy
[S, C, 1, H, W] and clips-00012.hit.npy [S, A_r, C_a] (the references), images-00003.video.npy [S, C, 1, H, W],
families-00007.video.npy [S, V, C, T, H, W] (a family's V videos) with its still, audio, hit and region arrays,
pairs-00001.video.npy [S, C, T, H, W] with its worn and high arrays (pairs.py), stories-00002.video.npy [S, C, T, H, W]
with its audio, second and guess arrays (story_batches.py), heads-00000.video.npy [S, C, T, H, W] with its audio and
portrait arrays, and beside each shard its clips-00012.json. The manifest is written last: a shard without one does not
exist.
Shard k holds the scenes k*S ... (k+1)*S - 1 of one seed; more shards may appear while a run trains on the present ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sky4.errors import Sky4Failure
from sky4.files import replacing
from sky4.geometry import ClipGeometry

Pool = Literal["clips", "images", "families", "pairs", "stories", "heads"]
FORMAT = "sky4-latents"


@dataclass(frozen=True)
class Manifest:
    """Where a shard's latents come from. Latents of unlike origins (all but first and count) never mix."""

    pool: str
    first: int
    count: int
    scene_seed: int
    level: int
    width: int
    height: int
    frames: int
    fps: str
    sample_rate: int
    hop: int
    spatial_compression: int
    temporal_compression: int
    video_codec: str  # digests of configuration and weights
    audio_codec: str

    @property
    def origin(self) -> tuple[object, ...]:
        return tuple(value for name, value in asdict(self).items() if name not in ("pool", "first", "count"))

    def fits(self, other: Manifest) -> bool:
        """Whether latents of both may train one model: all but length and level agree."""
        return replace(other, level=self.level, frames=self.frames).origin == self.origin

    def geometry(self, patch: int) -> ClipGeometry:
        """Of the whole clips, for a transformer of this patch."""
        return ClipGeometry(
            width=self.width,
            height=self.height,
            frames=self.frames,
            fps=Fraction(self.fps),
            sample_rate=self.sample_rate,
            hop=self.hop,
            spatial_compression=self.spatial_compression,
            temporal_compression=self.temporal_compression,
            patch=patch,
        )


def shard_path(folder: Path, pool: str, shard: int, suffix: str) -> Path:
    return folder / f"{pool}-{shard:05d}{suffix}"


def write_shard(folder: Path, shard: int, manifest: Manifest, arrays: Mapping[str, npt.NDArray[np.float16]]) -> None:
    """Write one shard: each file under a temporary name, then renamed; the manifest last."""
    for name, array in arrays.items():
        _save(shard_path(folder, manifest.pool, shard, f".{name}.npy"), array)
    text = {"format": FORMAT, "version": 1, "arrays": {name: list(array.shape) for name, array in arrays.items()}}
    with replacing(shard_path(folder, manifest.pool, shard, ".json")) as partial:
        partial.write_text(json.dumps(text | asdict(manifest), indent=1), encoding="utf-8")


def write_black(folder: Path, black: Tensor) -> None:
    """Keep the latent of a black clip [1, C, T, H, W] beside the shards: with it, training needs no codec."""
    _save(folder / "black.npy", black.cpu().numpy().astype(np.float32))


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def read_black(folder: Path) -> Tensor:
    """Raises Sky4Failure where the cache has none."""
    try:
        return torch.from_numpy(np.load(folder / "black.npy", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise Sky4Failure(f"cannot read {folder / 'black.npy'}: {error}; make it with 'sky4 train cache'") from error


def read_manifest(path: Path) -> Manifest:
    """Raises Sky4Failure for a file that is no manifest of this format."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("format") != FORMAT or data.pop("version") != 1:
            raise Sky4Failure(f"{path} is no manifest of latents of this version; make the cache anew")
        data.pop("arrays")
        return Manifest(**data)
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise Sky4Failure(f"cannot read the manifest of latents {path}: {error}") from error


class LatentPool:
    """All shards of one pool, memory-mapped, as one array of items in scene order."""

    def __init__(self, folder: Path, pool: Pool, limit: int) -> None:
        """Raises Sky4Failure where there is nothing, or where shards come from different codecs or geometries."""
        paths = sorted(folder.glob(f"{pool}-*.json"))
        if not paths:
            raise Sky4Failure(f"no {pool} in the latents cache {folder}; make them with 'sky4 train cache'")
        manifests = [read_manifest(path) for path in paths]
        self.manifest = manifests[0]
        for path, manifest in zip(paths, manifests, strict=True):
            if manifest.origin != self.manifest.origin:
                raise Sky4Failure(
                    f"{path} was made by other codecs or for other clips than {paths[0]}: remove one kind"
                )
        self.pool = pool
        self.scene_seed, self.level = self.manifest.scene_seed, self.manifest.level
        self._paths = [path.with_suffix("") for path in paths]
        self._open: dict[tuple[str, int], npt.NDArray[np.float16]] = {}
        self._ends = np.cumsum([manifest.count for manifest in manifests])
        self._firsts = np.array([manifest.first for manifest in manifests])
        self._starts = self._ends - np.array([manifest.count for manifest in manifests])
        self.count = min(limit, int(self._ends[-1]))

    def scenes(self, items: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The scene index of each item."""
        shards = np.searchsorted(self._ends, items, side="right")
        return np.asarray(self._firsts[shards] + items - self._starts[shards])

    def read(self, name: str, items: npt.NDArray[np.int64], length: int | None = None, axis: int = 1) -> Tensor:
        """The latents `name` of the items, float32; only the first `length` entries along `axis` of an item's array."""
        shards = np.searchsorted(self._ends, items, side="right")
        rows = []
        for shard, item in zip(shards.tolist(), items.tolist(), strict=True):
            row = self._array(name, shard)[item - int(self._starts[shard])]
            rows.append(row if length is None else row[(slice(None),) * (axis - 1) + (slice(0, length),)])
        return torch.from_numpy(np.stack(rows)).float()

    def read_at(self, name: str, items: npt.NDArray[np.int64], place: int) -> Tensor:
        """Entry `place` of each item's array `name`, float32: one video of a family, one of its sounds."""
        shards = np.searchsorted(self._ends, items, side="right")
        pairs = zip(shards.tolist(), items.tolist(), strict=True)
        rows = [self._array(name, shard)[item - int(self._starts[shard]), place] for shard, item in pairs]
        return torch.from_numpy(np.stack(rows)).float()

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one item's array."""
        return self._array(name, 0).shape[1:]

    def _array(self, name: str, shard: int) -> npt.NDArray[np.float16]:
        if (name, shard) not in self._open:
            path = Path(f"{self._paths[shard]}.{name}.npy")
            try:
                self._open[name, shard] = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise Sky4Failure(f"cannot read the latents {path}: {error}") from error
        return self._open[name, shard]
