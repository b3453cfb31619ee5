"""The task mix: what a batch keeps, which towers it trains, how long it is. A task is a value, made by one draw.

Legend: B batch, T latent frames, H W latent grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sky4.conditioning.inpaint import keep_ends, keep_first, keep_last, keep_nothing
from sky4.geometry import ClipGeometry
from sky4.train.keyed import generator
from sky4.train.latent_cache import Pool
from sky4.train.settings import BatchSettings, TaskSettings
from sky4.world.families import ROWS, TASK_ROWS, TaskRow

KINDS: dict[str, str] = {
    "t2i": "a still image: the video tower alone",
    "t2v": "a silent clip: the video tower alone",
    "t2av": "text to both",
    "t2a": "sound alone: the audio tower alone",
    "i2v": "the first latent frame is kept",
    "extend": "the first k are kept",
    "backward": "the last k are kept",
    "ends": "the first and the last are kept",
    "mask": "boxes and whole frames are kept",
    "reference": "an image of the object and a sound of the material are in-context references",
    "drive": "the sound is given (t_a = 1), the video is made",
    "v2a": "the video is given (t_v = 1), the sound is made",
    "keyframes": "some frames of a silent clip at a higher resolution, the clip made with them or given: the video "
    "tower alone",
    "take": "a take of a family from its caption; a share keeps its first k frames, its last, its first or a region",
    "take_extend": "the first k of a take that goes on are kept",
    "take_backward": "the last k of a take that goes on are kept",
    "same": "a take of a family in context, to be made again as it is: how a model learns to read its references",
    "story": "two shots from one caption",
    "talk": "a head's sound is given, and its portrait, its beginning or its beginning and end are kept",
    "transition": "the first of two shots is kept, the second is made a gap behind it in time",
    **{row.name: f"a family's '{row.target}': {row.title}" for row in TASK_ROWS},
}
ONWARD_KINDS = ("take_extend", "take_backward")
FAMILY_KINDS = ("take", *ONWARD_KINDS, "same", *ROWS)
KEEPING_KINDS = ("extend", "backward", *ONWARD_KINDS)
STORY_KINDS = ("story", "transition")
GIVEN_SOUND_KINDS = ("drive", "talk")
SHORT_KINDS = (*FAMILY_KINDS, *STORY_KINDS)  # whose clips are as long as families' takes


@dataclass(frozen=True)
class Task:
    """One batch's task: every sample of the batch has this kind, this length and this much kept."""

    kind: str  # one of KINDS
    frames: int  # latent frames; 1 for t2i
    batch: int  # samples
    keep: int = 1  # latent frames kept by KEEPING_KINDS
    first: float = 0.0  # share of samples that also keep their first frame
    sound: bool = True  # whether a family's take has its sound
    keyframes: int = 0  # high-resolution frames beside the clip
    whole: bool = False  # the clip itself is given, and only its keyframes are made

    @property
    def row(self) -> TaskRow | None:
        """The row of the tasks' table, if it is one."""
        return ROWS.get(self.kind)

    @property
    def pool(self) -> Pool:
        """Where its samples come from."""
        if self.kind in STORY_KINDS:
            return "stories"
        if self.kind in FAMILY_KINDS:
            return "families"
        own: dict[str, Pool] = {"t2i": "images", "keyframes": "pairs", "talk": "heads"}
        return own.get(self.kind, "clips")

    @property
    def has_film(self) -> bool:
        """Whether a film as long as the clip is shown: the last of its references."""
        return self.kind == "same" or (self.row is not None and any(":" not in name for name in self.row.shown))

    @property
    def has_video(self) -> bool:
        return self.kind != "t2a"

    @property
    def has_audio(self) -> bool:
        return self.sound and self.kind not in ("t2i", "t2v", "keyframes")

    @property
    def trains_video(self) -> bool:
        return self.has_video and self.kind != "v2a"

    @property
    def trains_audio(self) -> bool:
        return self.has_audio and self.kind not in GIVEN_SOUND_KINDS


class TaskMix:
    """Draws the task of each batch so that the *samples* come in the shares that the weights say."""

    def __init__(
        self,
        tasks: Mapping[str, TaskSettings],
        batch: BatchSettings,
        clip: ClipGeometry,
        family_frames: int = 1,
        pair_frames: int = 1,
        keyframe_cells: int = 4,
    ) -> None:
        """family_frames, pair_frames: latent frames of the families' takes and of the stories, and of pairs;
        keyframe_cells: cells of a keyframe for each of a frame's."""

        def longest_of(name: str) -> int:
            pool = Task(name, 1, 1).pool
            return {"families": family_frames, "stories": family_frames, "pairs": pair_frames}.get(
                pool, clip.latent_frames
            )

        for name, task in tasks.items():
            if name not in KINDS:
                raise ValueError(f"unknown task 'tasks.{name}'; use one of {', '.join(KINDS)}")
            if task.weight < 0:
                raise ValueError(f"tasks.{name}.weight must not be negative, got {task.weight}")
            longest = longest_of(name)
            if name in STORY_KINDS and any(frames != longest for frames in task.frames):
                raise ValueError(
                    f"tasks.{name}.frames must be {longest}, all that the stories have, got {list(task.frames)}"
                )
            if any(not 1 <= frames <= longest for frames in task.frames):
                raise ValueError(
                    f"tasks.{name}.frames must lie between 1 and the {longest} latent frames that there are, "
                    f"got {list(task.frames)}"
                )
        self._tasks: list[Task] = []
        shares: list[float] = []
        for name, task in tasks.items():
            if task.weight == 0:
                continue
            longest = longest_of(name)
            lengths = (1,) if name == "t2i" else task.frames or (longest,)
            for frames in lengths:
                for form, share in _forms(name, task, frames):
                    size = task.batch or batch_size(form, batch, clip, keyframe_cells)
                    self._tasks.append(replace(form, batch=size))
                    # A share of samples: a batch of many samples is drawn less often.
                    shares.append(task.weight * share / len(lengths) / size)
        self._edges = np.cumsum(shares) / np.sum(shares)

    def draw(self, seed: int, number: int) -> Task:
        """The task of batch `number`."""
        place = int(np.searchsorted(self._edges, generator(seed, "task", number).random(), side="right"))
        return self._tasks[min(place, len(self._tasks) - 1)]

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(self._tasks)


def window(clip: ClipGeometry, frames: int) -> ClipGeometry:
    """The geometry of a clip's first `frames` latent frames: what a causal codec makes of its first pixel frames."""
    return replace(clip, frames=(frames - 1) * clip.temporal_compression + 1)


def batch_size(task: Task, batch: BatchSettings, clip: ClipGeometry, keyframe_cells: int = 4) -> int:
    """Samples of one batch under the token budget; each tower's text tokens and references count too."""
    geometry = window(clip, task.frames)
    video = geometry.video_tokens + batch.text_tokens if task.has_video else 0
    shown = ("base",) if task.kind == "same" else task.row.shown if task.row else ()
    lengths = {"still": geometry.video_tokens // task.frames, "hit": 0}  # a hit is half a second of sound
    video += sum(lengths.get(name.partition(":")[0], geometry.video_tokens) for name in shown)
    video += task.keyframes * keyframe_cells * geometry.video_tokens // task.frames
    audio = geometry.audio_tokens + batch.text_tokens if task.has_audio else 0
    return max(batch.parts, min(batch.largest, batch.tokens // (video + audio)))


def _forms(name: str, task: TaskSettings, frames: int) -> list[tuple[Task, float]]:
    """The forms in which a kind comes at one length, with their shares: each k that is kept, with sound and without."""
    keeps = tuple(k for k in task.keep if k < frames) if name in KEEPING_KINDS else ()
    forms = [(Task(name, frames, 1, keep, task.first), 1 / len(keeps or (1,))) for keep in keeps or (1,)]
    if name == "keyframes":
        counts = tuple(count for count in task.keyframes if count <= frames) or (1,)
        forms = [
            (replace(form, keyframes=count, whole=whole), share * given / len(counts))
            for form, share in forms
            for count in counts
            for whole, given in ((True, task.whole), (False, 1 - task.whole))
        ]
        return [(form, share) for form, share in forms if share > 0]
    if name not in SHORT_KINDS:
        return forms
    silent = name in ROWS and ROWS[name].sound is None
    sounding = 0.0 if silent else task.sound
    forms = [
        (replace(form, sound=sound), share * weight)
        for form, share in forms
        for sound, weight in ((True, sounding), (False, 1 - sounding))
    ]
    return [(form, share) for form, share in forms if share > 0]


def keep_mask(task: Task, grid: tuple[int, int], seed: int, numbers: range) -> Tensor:
    """The keep mask [B, 1, T, H, W] of a batch: 1 = kept."""
    shape = (len(numbers), task.frames, *grid)
    if task.whole:
        return keep_first(shape, task.frames)
    if task.kind == "i2v":
        return keep_first(shape)
    if task.kind in ("extend", "take_extend"):
        return keep_first(shape, task.keep)
    if task.kind in ("backward", "take_backward"):
        return keep_last(shape, task.keep)
    if task.row is not None and task.row.first:
        return keep_first(shape)
    if task.kind == "ends":
        return keep_ends(shape)
    keep = keep_nothing(shape)
    if task.kind == "v2a":
        return keep  # the video is given by its timestep, not by the mask
    for row, number in enumerate(numbers) if task.kind == "mask" or task.first > 0 else ():
        random = generator(seed, "keep", number)
        if task.kind == "mask":
            keep[row, 0] = _region(random, task.frames, grid)
        if random.random() < task.first:
            keep[row, 0, 0] = 1.0
    return keep


def _region(random: np.random.Generator, frames: int, grid: tuple[int, int]) -> Tensor:
    """One sample's kept cells [T, H, W]: around a box, inside a box, some whole frames, or frames and a box."""
    kept = torch.zeros(frames, *grid)
    form = random.random()
    if form < 0.75:
        height, width = (int(random.integers(max(1, side // 4), max(2, 3 * side // 4 + 1))) for side in grid)
        top, left = int(random.integers(grid[0] - height + 1)), int(random.integers(grid[1] - width + 1))
        kept[:, top : top + height, left : left + width] = 1.0
        if form < 0.5:  # more often the box is what is made anew
            kept = 1.0 - kept
    if form >= 0.6:
        frames_kept = torch.from_numpy(random.random(frames) < random.uniform(0.1, 0.6))
        kept[frames_kept] = 1.0
    if bool(kept.all()):
        kept[-1] = 0.0  # something must be left to make
    return kept
