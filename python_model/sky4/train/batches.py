"""Batches of latents: what one step trains on, drawn by counters, read from the cache, made ahead in a thread.

Legend: B batch, C latent channels, T latent frames, H W latent grid, A audio tokens, C_a audio channels.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sky4.conditioning import ShotSwitch
from sky4.conditioning.references import AudioReferences, VideoReferences
from sky4.conditioning.reprojection import ShotGuess
from sky4.diffusion.flow import sample_t
from sky4.diffusion.noise import batch_noise
from sky4.errors import Sky4Failure
from sky4.geometry import ClipGeometry
from sky4.train.family_batches import Content, family_content, family_prompt
from sky4.train.head_batches import head_content, head_prompt
from sky4.train.keyed import generator, permuted
from sky4.train.keyframe_batches import HighFrames, high_frames
from sky4.train.latent_cache import LatentPool, Pool
from sky4.train.settings import CaptionSettings, JointSettings
from sky4.train.story_batches import story_content, story_prompt
from sky4.train.tasks import GIVEN_SOUND_KINDS, Task, TaskMix, keep_mask, window
from sky4.world.captions import caption
from sky4.world.lexicon import VOCABULARY
from sky4.world.scene import Scene, sample_scene

GOLDEN = (5**0.5 - 1) / 2  # its multiples modulo 1 fill (0, 1) most evenly


@dataclass(frozen=True)
class Position:
    """Where a run's data stands: the next batch, the next sample, and the next place in each pool's endless order."""

    batch: int = 0
    sample: int = 0
    clips: int = 0
    images: int = 0
    families: int = 0
    pairs: int = 0
    stories: int = 0
    heads: int = 0

    def after(self, task: Task) -> Position:
        taken = {task.pool: getattr(self, task.pool) + task.batch}
        return replace(self, batch=self.batch + 1, sample=self.sample + task.batch, **taken)


@dataclass(frozen=True)
class LatentBatch:
    """One step's samples; None where the task has no such part. All tensors float32.

    The timesteps are [B]; a modality that is given stands at t = 1.
    """

    task: Task
    numbers: range  # global sample numbers
    geometry: ClipGeometry
    prompts: tuple[str, ...]
    video: Tensor | None  # [B, C, T, H, W], clean
    video_noise: Tensor | None
    video_time: Tensor
    keep_mask: Tensor | None  # [B, 1, T, H, W]
    guide: Tensor | None  # [B, C, T, H, W], latents that the video starts from as a whole
    video_references: VideoReferences | None
    audio: Tensor | None  # [B, A, C_a], clean
    audio_noise: Tensor | None
    audio_time: Tensor
    audio_references: AudioReferences | None
    high: HighFrames | None = None
    switch: ShotSwitch | None = None  # where another shot begins
    guess: ShotGuess | None = None  # what it may look like

    def part(self, rows: slice) -> LatentBatch:
        """Some of the samples: gradient accumulation works a batch off in parts."""

        def cut(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[rows]

        seen, heard = self.video_references, self.audio_references
        return replace(
            self,
            numbers=self.numbers[rows],
            prompts=self.prompts[rows],
            video=cut(self.video),
            video_noise=cut(self.video_noise),
            video_time=self.video_time[rows],
            keep_mask=cut(self.keep_mask),
            guide=cut(self.guide),
            audio=cut(self.audio),
            audio_noise=cut(self.audio_noise),
            audio_time=self.audio_time[rows],
            video_references=None if seen is None else VideoReferences(seen.latents[rows]),
            audio_references=None if heard is None else AudioReferences(heard.latents[rows]),
            high=None if self.high is None else self.high.part(rows),
            guess=None if self.guess is None else self.guess.part(rows),
        )


class BatchSource:
    """Makes the batch at any position: a pure function of the settings, the cache and the position."""

    def __init__(self, settings: JointSettings) -> None:
        """Raises Sky4Failure where the cache lacks what the tasks need, ValueError where it does not fit the config."""
        self._settings = settings
        folder, data = Path(settings.data.cache), settings.data
        active = [name for name, task in settings.tasks.items() if task.weight > 0]
        wanted = {name: Task(name, 1, 1).pool for name in active}
        limits: dict[Pool, int] = {
            "clips": data.clips,
            "images": data.images,
            "families": data.families,
            "stories": data.stories,
            "pairs": data.pairs,
            "heads": data.heads,
        }
        self._pools = {pool: LatentPool(folder, pool, n) for pool, n in limits.items() if pool in wanted.values()}
        manifests = [pool.manifest for pool in self._pools.values()]
        if not all(manifest.fits(manifests[0]) for manifest in manifests):
            raise Sky4Failure(f"what lies in {folder} was made by different codecs or for other clips; keep one kind")
        clip = settings.clip
        lengths = {"families": data.family_frames, "stories": data.family_frames, "pairs": data.pair_frames}
        for pool, there in self._pools.items():
            frames, made = lengths.get(pool, clip.frames), there.manifest
            if (made.width, made.height, made.frames, Fraction(made.fps)) != (
                clip.width,
                clip.height,
                frames,
                clip.fps,
            ):
                raise ValueError(
                    f"config.clip is {clip.width}x{clip.height}, {frames} frames at {clip.fps} fps, but {folder} "
                    f"holds {made.width}x{made.height}, {made.frames} frames at {made.fps} fps: change one of them"
                )
        patch = settings.transformer_config().patch
        self.clip = replace(manifests[0], frames=clip.frames).geometry(patch)
        takes, pairs = (
            replace(manifests[0], frames=frames).geometry(patch).latent_frames
            for frames in (data.family_frames, data.pair_frames)
        )
        self.mix = TaskMix(settings.tasks, settings.batch, self.clip, takes, pairs, data.pair_scale**2)
        first = next(iter(self._pools.values()))
        self.channels = {"video": first.shape("video")[-4]}
        sounding = next((there for pool, there in self._pools.items() if pool not in ("images", "pairs")), None)
        if sounding is not None:
            self.channels["audio"] = sounding.shape("audio")[-1]
        self.counts: dict[str, int] = {name: pool.count for name, pool in self._pools.items()}

    def make(self, position: Position) -> LatentBatch:
        settings, seed = self._settings, self._settings.seed
        task = self.mix.draw(seed, position.batch)
        numbers = range(position.sample, position.sample + task.batch)
        pool = self._pools[task.pool]
        start = getattr(position, task.pool)
        items = permuted(np.arange(start, start + task.batch), pool.count, seed, pool.pool)
        geometry = window(self.clip, task.frames)
        switch = None
        if task.pool == "stories":
            content, switch = story_content(pool, items, task, geometry)
        elif task.pool == "heads":
            content = head_content(pool, items, task, geometry, seed, position.batch)
        elif task.pool == "families":
            content = family_content(pool, items, task, geometry, seed, position.batch, numbers)
        else:
            content = self._plain(pool, items, task, geometry, numbers)
        dropped = generator(seed, "drop references", position.batch).random() < settings.captions.drop_references
        times = _timesteps(settings, task, numbers)
        video, audio = content.video, content.audio
        return LatentBatch(
            task=task,
            numbers=numbers,
            geometry=geometry,
            prompts=tuple(_prompts(settings, task, position, pool, items, geometry)),
            video=video,
            video_noise=None if video is None else batch_noise(video.shape[1:], seed, "train video", numbers),
            video_time=times[0],
            keep_mask=content.keep_mask,
            guide=None if dropped and content.seen is not None else content.guide,
            video_references=None if dropped or content.seen is None else VideoReferences(content.seen),
            audio=audio,
            audio_noise=None if audio is None else batch_noise(audio.shape[1:], seed, "train audio", numbers),
            audio_time=times[1],
            audio_references=None if dropped or content.heard is None else AudioReferences(content.heard),
            high=high_frames(pool, items, task, seed, position.batch, numbers) if task.keyframes else None,
            switch=switch,
            guess=content.guess,
        )

    def _plain(
        self, pool: LatentPool, items: npt.NDArray[np.int64], task: Task, geometry: ClipGeometry, numbers: range
    ) -> Content:
        """Of a clip or an image of level 1."""
        video = pool.read("video", items, task.frames, axis=2) if task.has_video else None
        referring = task.kind == "reference"
        return Content(
            video=video,
            audio=pool.read("audio", items, geometry.audio_tokens, axis=1) if task.has_audio else None,
            keep_mask=None
            if video is None
            else keep_mask(task, (video.shape[3], video.shape[4]), self._settings.seed, numbers),
            seen=pool.read("image", items) if referring else None,
            heard=pool.read("hit", items) if referring else None,
        )

    def ahead(self, position: Position, count: int = 2) -> Generator[tuple[LatentBatch, Position], None, None]:
        """Batches from `position` on, with the position after each, `count` of them made ahead in a thread."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
            waiting: list[tuple[Future[LatentBatch], Position]] = []
            try:
                while True:
                    while len(waiting) < count:
                        following = position.after(self.mix.draw(self._settings.seed, position.batch))
                        waiting.append((pool.submit(self.make, position), following))
                        position = following
                    made, following = waiting.pop(0)
                    yield made.result(), following
            finally:
                for made, _ in waiting:
                    made.cancel()


def _timesteps(settings: JointSettings, task: Task, numbers: range) -> tuple[Tensor, Tensor]:
    """(t_v, t_a) [B]: one draw for both, two on a share of the samples; a given modality stands at 1.

    The first draw is the golden ratio's additive sequence, which spreads any run of samples evenly over (0, 1): each
    batch sees all noise levels, and its gradient varies less than with independent draws.
    """
    time, seed = settings.time, settings.seed
    start = generator(seed, "first time", 0).random()
    draws = torch.from_numpy(np.stack([generator(seed, "time", number).random(2) for number in numbers]))
    even = torch.tensor([(start + number * GOLDEN) % 1.0 for number in numbers])
    uniform = torch.stack((even, draws[:, 0].float()), dim=1)
    t = sample_t(uniform, time.draw, mean=time.mean, std=time.std, shift_by=time.shift)
    video = t[:, 0]
    audio = torch.where(draws[:, 1] < time.separate, t[:, 1], video)
    if task.kind == "v2a":
        audio, video = t[:, 1], torch.ones_like(video)
    if task.kind in GIVEN_SOUND_KINDS:
        audio = torch.ones_like(audio)
    return video, audio


def _prompts(
    settings: JointSettings,
    task: Task,
    position: Position,
    pool: LatentPool,
    items: npt.NDArray[np.int64],
    geometry: ClipGeometry,
) -> Iterator[str]:
    """A fresh caption of every sample's scene, or an instruction of its family's row; a share is empty.

    A batch's captions are of one kind and one language: all about equally long, so that little of the text is padding.
    """
    whole = generator(settings.seed, "caption kind", position.batch)
    kind, language = _choose(settings.captions.kinds, whole), _choose(settings.captions.languages, whole)
    for number, index in enumerate(pool.scenes(items).tolist(), start=position.sample):
        random = generator(settings.seed, "caption", number)
        if random.random() < settings.captions.drop:
            yield ""
        elif task.pool == "stories":
            yield story_prompt(pool, index, task, geometry, language, random)  # type: ignore[arg-type]
        elif task.pool == "heads":
            yield head_prompt(pool, index, language, random)  # type: ignore[arg-type]
        elif task.pool == "families":
            yield family_prompt(pool, index, task, language, random, settings.seed, position.batch)  # type: ignore[arg-type]
        else:
            scene = sample_scene(pool.scene_seed, index, "train", pool.level)
            silent, unseen = not task.has_audio, not task.has_video
            text = caption(scene, kind, language, random, silent=silent, audio_only=unseen)  # type: ignore[arg-type]
            yield refer(text, scene, language, random) if task.kind == "reference" else text


def _choose(weights: dict[str, float], random: np.random.Generator) -> str:
    """A name, by weight."""
    shares = np.array(list(weights.values()))
    return str(random.choice(list(weights), p=shares / shares.sum()))


def refer(text: str, scene: Scene, language: str, random: np.random.Generator) -> str:
    """A caption that names its references: @image_1 in place of the subject's words (or after them), @audio_1 in place
    of the sound's."""
    words = VOCABULARY["zh" if language == "zh" else "en"]
    shapes = "|".join(map(re.escape, sorted(words["shape"][scene.shape], key=len, reverse=True)))
    sounds = "|".join(map(re.escape, sorted(words["material"][scene.material], key=len, reverse=True)))
    subject = (
        rf"一[个颗][^，。、]*?(?:{shapes})" if language == "zh" else rf"\b[Aa]n? (?:[\w-]+ ){{0,6}}?(?:{shapes})\b"
    )
    seen = (lambda match: f"{match.group()} @image_1") if random.random() < 0.3 else (lambda match: "@image_1")
    text = re.sub(subject, seen, text, count=1)
    return re.sub(rf"(?<=<sfx>)(.*?)(?:{sounds})", r"\1@audio_1", text, count=1) if random.random() < 0.7 else text


def caption_settings_fault(captions: CaptionSettings) -> str | None:
    """What is wrong with the caption kinds or languages, in one sentence; None where nothing is."""
    for name, weights in (("kinds", captions.kinds), ("languages", captions.languages)):
        if not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
            return f"captions.{name} must give at least one weight above 0 and none below, got {weights}"
    return None
