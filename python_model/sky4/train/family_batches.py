"""What a batch takes from families of takes: target, references, what is kept, and the words for it.

Legend: B batch, C latent channels, T latent frames, R reference latent frames, H W latent grid, A audio tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sky4.conditioning.inpaint import keep_first, keep_last, keep_nothing
from sky4.conditioning.reprojection import ShotGuess
from sky4.geometry import ClipGeometry
from sky4.train.keyed import generator
from sky4.train.latent_cache import LatentPool
from sky4.train.tasks import ONWARD_KINDS, Task, keep_mask
from sky4.world.families import SOUNDS, STILLS, VIDEOS, TaskRow, sample_family
from sky4.world.instructions import instruction, take_caption
from sky4.world.lexicon import Language

KEPT_TAKES = (0.25, 0.35, 0.45, 0.6)  # shares of takes that keep their first frame, first k, last k, all but a region
AS_IT_IS: dict[Language, tuple[str, ...]] = {
    "en": ("@video_1", "the same as @video_1", "keep @video_1 as it is"),
    "zh": ("@video_1", "与@video_1相同"),
}


@dataclass(frozen=True)
class Content:
    """A batch's latents before noise: video [B, C, T, H, W], audio [B, A, C_a], keep_mask [B, 1, T, H, W], and the
    references seen [B, C, R, H, W] and heard [B, A_r, C_a]; None for what the task has not. guide [B, C, T, H, W]: what
    the video starts from: the film among its references, or the source under a mask once it is filled. guess: what
    another shot in it may look like."""

    video: Tensor | None
    audio: Tensor | None
    keep_mask: Tensor | None
    seen: Tensor | None = None
    heard: Tensor | None = None
    guide: Tensor | None = None
    guess: ShotGuess | None = None


def family_content(
    pool: LatentPool,
    items: npt.NDArray[np.int64],
    task: Task,
    geometry: ClipGeometry,
    seed: int,
    batch: int,
    numbers: range,
) -> Content:
    """A row of the tasks' table, or one of the takes by itself or in context, for the families `items`."""
    row = task.row

    def shown(name: str) -> Tensor:
        if name.startswith("still:"):
            return pool.read_at("still", items, STILLS.index(name.removeprefix("still:")))
        return pool.read_at("video", items, VIDEOS.index(name))[:, :, : task.frames]

    video = shown(_target(task, seed, batch))
    shape = (len(items), task.frames, video.shape[3], video.shape[4])
    if row is None:
        onward = task.kind in ONWARD_KINDS
        audio = _sound(pool, items, "onward" if onward else "base", geometry) if task.has_audio else None
        if onward:
            return Content(video, audio, keep_mask(task, (shape[2], shape[3]), seed, numbers))
        if task.kind == "same":
            return Content(video, audio, keep_nothing(shape), seen=video, guide=video)
        return Content(video, audio, _kept_of_take(pool, items, task, shape, seed, batch))
    keep = keep_mask(task, (shape[2], shape[3]), seed, numbers)
    guide = None
    if row.under is not None:
        keep, cleared = _kept_under(row, pool, items, task), shown("cleared")
        video = torch.where(keep > 0.5, cleared, video)  # what is kept is the filled source's own
        guide = cleared if row.region == "thing" else None  # other regions leave no cell whole
    elif task.has_film and not row.first:
        guide = shown(row.shown[-1])
    seen = [shown(name) for name in row.shown if not name.startswith("hit:")]
    hits = any(name.startswith("hit:") for name in row.shown)
    return Content(
        video=video,
        audio=_sound(pool, items, row.sound or "base", geometry) if task.has_audio else None,
        keep_mask=keep,
        seen=torch.cat(seen, dim=2) if seen else None,
        heard=pool.read_at("hit", items, 0) if hits and task.has_audio else None,
        guide=guide,
    )


def family_prompt(
    pool: LatentPool, index: int, task: Task, language: Language, random: np.random.Generator, seed: int, batch: int
) -> str:
    """The words for family `index` under the batch's task."""
    family = sample_family(pool.scene_seed, index, "train", pool.level)
    if task.row is not None:
        return instruction(family, task.row, language, random)
    if task.kind == "same":
        return AS_IT_IS[language][int(random.integers(len(AS_IT_IS[language])))]
    return take_caption(family.takes[_target(task, seed, batch)], language, random, silent=not task.has_audio)


def _target(task: Task, seed: int, batch: int) -> str:
    """The video that the batch makes: the row's, or one drawn; a take with sound is the base take."""
    if task.row is not None:
        return task.row.target
    if task.kind in ONWARD_KINDS:
        return "onward"
    return "base" if task.has_audio else VIDEOS[int(generator(seed, "take", batch).integers(len(VIDEOS)))]


def _sound(pool: LatentPool, items: npt.NDArray[np.int64], sound: str, geometry: ClipGeometry) -> Tensor:
    return pool.read_at("audio", items, SOUNDS.index(sound))[:, : geometry.audio_tokens]


def _kept_under(row: TaskRow, pool: LatentPool, items: npt.NDArray[np.int64], task: Task) -> Tensor:
    """Around the moving thing, or nothing at all: no cell lies inside it as a whole."""
    cells = 1 - pool.read_at("region", items, 0)[:, None, : task.frames]
    return cells if row.region == "thing" else torch.zeros_like(cells)


def _kept_of_take(
    pool: LatentPool,
    items: npt.NDArray[np.int64],
    task: Task,
    shape: tuple[int, int, int, int],
    seed: int,
    batch: int,
) -> Tensor:
    """Most takes are made from words alone; some keep a first frame, a beginning, an end, or all but a region."""
    random = generator(seed, "keep of take", batch)
    draw, frames = random.random(), max(1, task.frames - 1)
    if (task.has_audio and draw >= KEPT_TAKES[0]) or draw >= KEPT_TAKES[3] or task.frames == 1:
        return keep_nothing(shape)
    if draw < KEPT_TAKES[0]:
        return keep_first(shape)
    if draw < KEPT_TAKES[1]:
        return keep_first(shape, int(random.integers(1, frames + 1)))
    if draw < KEPT_TAKES[2]:
        return keep_last(shape, int(random.integers(1, frames + 1)))
    return 1 - pool.read_at("region", items, 0)[:, None, : task.frames]
