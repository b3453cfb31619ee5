"""Training of the refiner on pairs of one scene at two sizes and rates, in latents; a problem of `frozen.fit`.

Every draw is a function of the seed and the sample's number. The density of the sparse attention falls in steps from
dense: 1 - density_step * (sample // density_every), down to `density`.

Legend: B samples, C latent channels, T -> T2 latent frames, h w -> H W latent grid, K keyframes.
"""

import json
import shutil
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from sky4.conditioning.inpaint import VideoCondition
from sky4.conditioning.refiner import RESIDUAL, KeyframeLatents, assemble_refiner, refiner_condition, refiner_velocity
from sky4.config import TransformerConfig, config_from_dict, config_to_dict
from sky4.diffusion.flow import noised, velocity_target
from sky4.diffusion.noise import batch_noise
from sky4.encoders import load_text_encoder, load_video_codec
from sky4.encoders.protocols import TextEncoder, VideoCodec
from sky4.errors import Sky4Failure
from sky4.model.checkpoint import save_transformer
from sky4.model.refiner import refiner_from
from sky4.model.transformer import JointTransformer
from sky4.train.batches import GOLDEN
from sky4.train.cache import codec_digest
from sky4.train.keyed import generator, permuted
from sky4.train.latent_cache import LatentPool, Manifest, shard_path, write_shard
from sky4.train.objective import mean_square
from sky4.train.pairs import PairSet, encode_enlarged, encode_pairs
from sky4.train.precision import multiplies_bfloat16
from sky4.train.start import starting_weights
from sky4.world.captions import caption
from sky4.world.scene import sample_scene


@dataclass(frozen=True)
class RefinerConfig:
    base: str  # the model folder that the refiner belongs to: its codec, text encoder and video tower
    cache: str = "runs/cache_pairs"  # a folder in it for every shape
    shapes: tuple[PairSet, ...] = (PairSet(),)  # each batch is of one of them
    shard: int = 32
    scene_seed: int = 5
    level: int = 1
    start: Literal["latents", "pixels"] = "latents"  # what is refined: latents interpolated, or pixels enlarged
    residual: float = RESIDUAL  # deviation of what the start lacks
    frames: int = 5  # latent frames T2 of a sample, cut out anywhere; an odd number: it begins on a low one
    crops: tuple[int, ...] = ()  # cells H = W of a batch's samples, drawn among these; none: whole pictures
    dual_blocks: int | None = None  # None: as many as the video tower has
    single_blocks: int | None = None
    worn: float = 0.6  # share of samples whose small clip is worn; of pixels the pairs themselves are
    keyframes: float = 0.25  # share with one or two frames known
    source: float = 0.15  # share with a region known
    drop_text: float = 0.3
    time_power: float = 2.0  # t = u^power: most where noise is strong, since refining takes few steps
    density: float = 1 / 3
    density_step: float = 0.1
    density_every: int = 400  # samples
    steps: int = 4  # of sampling, written into the exported model's manifest, as what follows is
    held: bool = False
    tile: tuple[int, int, int] = (9, 16, 16)
    overlap: tuple[int, int, int] = (2, 4, 4)
    bf16: bool | None = None  # None: where the device multiplies it natively

    def __post_init__(self) -> None:
        if self.frames % 2 == 0 or self.frames < 1:
            raise ValueError(f"frames must be an odd number of latent frames, got {self.frames}")
        if not 0 < self.density <= 1:
            raise ValueError(f"density must be above 0 and at most 1, got {self.density}")
        if not self.shapes:
            raise ValueError("shapes must name at least one shape of pairs")

    def density_at(self, sample: int) -> float:
        """Of the sparse attention after so many samples."""
        return max(self.density, 1.0 - self.density_step * (sample // max(1, self.density_every)))


class RefinerProblem:
    """Mean squared error of the velocity over what is not known."""

    def __init__(self, config: RefinerConfig, device: str = "cpu", say: Any = print):
        """Encodes the pairs that the cache lacks. Raises ValueError and Sky4Failure for a base that cannot be used."""
        self.config, self.device = config, torch.device(device)
        self.manifest = _base_manifest(config.base)
        self.transformer = config_from_dict(TransformerConfig, self.manifest["transformer"])
        self._bf16 = multiplies_bfloat16(self.device) if config.bf16 is None else config.bf16
        torch.manual_seed(0)
        tower = JointTransformer(self.transformer)
        tower.load_state_dict(starting_weights(Path(config.base)))
        self.model = refiner_from(tower.video, config.dual_blocks, config.single_blocks).to(self.device)
        # in bfloat16 its latents are 0.004 off, far below what they are refined by
        precision = torch.bfloat16 if self._bf16 else torch.float32
        self.codec = load_video_codec(Path(config.base) / self.manifest["video_codec"], device, precision)
        self.text = _text_encoder(config.base, self.manifest, device)
        self.pools = []
        for shape in config.shapes:
            folder = fill_pairs(config, shape, self.codec, self.device, say)
            self.pools.append(LatentPool(folder, "pairs", shape.pairs))
        if self.pools[0].shape("video")[0] != self.transformer.video_channels:
            raise ValueError(f"network.cache {config.cache} holds latents of another codec; name another folder")

    @property
    def module(self) -> nn.Module:
        return self.model

    def loss(self, seed: int, first: int, batch: int) -> tuple[Tensor, dict[str, float]]:
        numbers = range(first, first + batch)
        pool = self.pools[int(generator(seed, "refiner shape", first).integers(len(self.pools)))]
        items = permuted(np.arange(first, first + batch), pool.count, seed, "pairs")
        high, condition = self.samples(seed, numbers, items, pool)
        eps = batch_noise(high.shape[1:], seed, "refiner", numbers).to(self.device)
        start = generator(seed, "refiner time", 0).random()
        even = torch.tensor([(start + number * GOLDEN) % 1.0 for number in numbers], device=self.device)
        t = even**self.config.time_power
        noisy = noised(high, eps, t)
        density, patch = self.config.density_at(first), self.transformer.patch
        with torch.no_grad():
            text = self.text.encode(self._prompts(seed, numbers, pool.scenes(items)))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            out = self.model(assemble_refiner(noisy, condition, t, density=density, patch=patch), text)
        made = refiner_velocity(out.float(), noisy, condition, t, patch, self.config.residual)
        loss, _ = mean_square(made, velocity_target(high, eps), condition.keep_mask)
        with torch.no_grad():
            unknown = 1.0 - condition.keep_mask
            silent = ((high - condition.latents) * unknown).square().sum() / unknown.expand_as(high).sum()
        return loss, {"loss": float(loss.detach()), "interpolation": float(silent), "density": density}

    def samples(self, seed: int, numbers: range, items: np.ndarray, pool: LatentPool) -> tuple[Tensor, VideoCondition]:
        """(high [B, C, T2, H, W], its condition): a part of each pair in time and space, with what is known of it."""
        config = self.config
        cut: list[tuple[Tensor, Tensor]] = []
        rows, masks, frames = [], [], []
        video, every = pool.read("video", items), pool.read("high", items)
        worn = pool.read("worn", items) if config.start == "latents" else video
        rate = (every.shape[2] - 1) // max(1, video.shape[2] - 1)  # 1 where the small ones were enlarged
        scale = every.shape[3] // video.shape[3]
        count = min((config.frames + rate - 1) // rate, video.shape[2])
        side = video.shape[3]
        if config.crops:
            drawn = config.crops[int(generator(seed, "refiner crop", numbers.start).integers(len(config.crops)))]
            side = min(side, max(1, drawn // scale))
        for row, number in enumerate(numbers):
            random = generator(seed, "refiner sample", number)
            low = worn[row] if random.random() < config.worn else video[row]
            begin, top, left = (
                int(random.integers(most + 1))
                for most in (low.shape[1] - count, low.shape[2] - side, low.shape[3] - side)
            )
            length = (count - 1) * rate + 1
            cut.append(
                (
                    low[:, begin : begin + count, top : top + side, left : left + side],
                    every[row, :, begin * rate : begin * rate + length][
                        ..., top * scale : (top + side) * scale, left * scale : (left + side) * scale
                    ],
                )
            )
            known, mask = _known(random, length, (side * scale, side * scale), config)
            frames.append(known)
            masks.append(mask)
        low, high = (torch.stack(part).to(self.device) for part in zip(*cut, strict=True))
        for row, known in enumerate(frames):
            keyframes = KeyframeLatents(high[row : row + 1, :, list(known)], known) if known else None
            source = VideoCondition(high[row : row + 1], masks[row][None].to(high))
            _, condition = refiner_condition(low[row : row + 1], torch.zeros_like(high[:1]), keyframes, source)
            rows.append(condition)
        latents, keep = zip(*((row.latents, row.keep_mask) for row in rows), strict=True)
        return high, VideoCondition(torch.cat(latents), torch.cat(keep))

    def _prompts(self, seed: int, numbers: range, scenes: np.ndarray) -> list[str]:
        prompts = []
        for number, index in zip(numbers, scenes.tolist(), strict=True):
            random = generator(seed, "refiner caption", number)
            scene = sample_scene(self.config.scene_seed, index, "train", self.config.level)
            said = caption(scene, "short", "en", random, silent=True)
            prompts.append("" if random.random() < self.config.drop_text else said)
        return prompts


def _known(
    random: np.random.Generator, frames: int, grid: tuple[int, ...], config: RefinerConfig
) -> tuple[tuple[int, ...], Tensor]:
    """(keyframes among the frames, the mask [1, T2, H, W] of the source)."""
    mask = torch.zeros(1, frames, *grid)
    known: tuple[int, ...] = ()
    if random.random() < config.keyframes:
        chosen = random.choice(frames, size=min(int(random.integers(1, 3)), frames - 1 or 1), replace=False)
        known = tuple(sorted(int(frame) for frame in chosen))
    if random.random() < config.source:
        height, width = (int(random.integers(1, side)) for side in grid)
        top, left = int(random.integers(grid[0] - height + 1)), int(random.integers(grid[1] - width + 1))
        mask[..., top : top + height, left : left + width] = 1.0
    return known, mask


def fill_pairs(
    config: RefinerConfig, shape: PairSet, codec: VideoCodec, device: torch.device, say: Any = print
) -> Path:
    """Encode the shards of pairs that the cache lacks; returns their folder. Sky4Failure where it holds others."""
    encode = encode_pairs if config.start == "latents" else encode_enlarged
    folder = Path(config.cache) / f"{config.start}-{shape.size}x{shape.scale}"
    folder.mkdir(parents=True, exist_ok=True)
    base = Path(config.base)
    part = _base_manifest(config.base)["video_codec"]
    manifest = Manifest(
        pool="pairs",
        first=0,
        count=config.shard,
        scene_seed=config.scene_seed,
        level=config.level,
        width=shape.size,
        height=shape.size,
        frames=shape.frames,
        fps=str(Fraction(shape.fps)),
        sample_rate=44100,
        hop=1024,
        spatial_compression=codec.spatial_compression,
        temporal_compression=codec.temporal_compression,
        video_codec=codec_digest(base / part),
        audio_codec="",
    )
    if shard_path(folder, "pairs", 0, ".json").exists():
        there = LatentPool(folder, "pairs", shape.pairs).manifest
        if there.origin != manifest.origin:
            raise Sky4Failure(f"{folder} holds pairs of another codec or shape: choose another network.cache")
    count = -(-shape.pairs // config.shard)
    for shard in range(count):
        if shard_path(folder, "pairs", shard, ".json").exists():
            continue
        indices = range(shard * config.shard, (shard + 1) * config.shard)
        arrays = encode(config.scene_seed, indices, shape, config.level, codec, device)
        write_shard(folder, shard, replace(manifest, first=indices[0], count=len(indices)), arrays)
        say(f"pairs of {shape.size} pixels {shard + 1}/{count}")
    return folder


def _base_manifest(folder: str) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((Path(folder) / "model.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"network.base is {folder}, which is no model folder: {error}") from error
    return manifest


def _text_encoder(folder: str, manifest: dict[str, Any], device: str) -> TextEncoder:
    entry = manifest["text_encoder"]
    return load_text_encoder(Path(folder) / entry["path"], entry["layer"], entry["max_tokens"], device)


@torch.no_grad()
def export(problem: RefinerProblem, folder: Path) -> dict[str, float]:
    """The base's model folder with the refiner in it; returns how far it comes on pairs that it was trained on."""
    config, base = problem.config, Path(problem.config.base)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(base, partial, ignore=shutil.ignore_patterns("refiner"))
    model = problem.model.eval()
    save_transformer(model, partial / "refiner", torch.bfloat16)
    manifest = problem.manifest | {
        "refiner": {
            "path": "refiner",
            "transformer": config_to_dict(model.config),
            "steps": config.steps,
            "density": config.density,
            "tile": list(config.tile),
            "overlap": list(config.overlap),
            "start": config.start,
            "residual": config.residual,
            "held": config.held,
        }
    }
    (partial / "model.json").write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    losses = [problem.loss(99, first, 8)[1] for first in range(10**9, 10**9 + 32, 8)]
    return {name: float(np.mean([loss[name] for loss in losses])) for name in ("loss", "interpolation")}
