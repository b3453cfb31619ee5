"""What a batch takes from stories of two shots: both from one caption, or the second behind the first, which is kept.

All stories of a cache are cut at one place, in the middle, where a latent frame ends: a batch then has one switch.

Legend: B batch, C latent channels, T latent frames, H W latent grid, A audio tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import ceil

import numpy as np
import numpy.typing as npt
import torch

from sky4.conditioning import ShotSwitch
from sky4.conditioning.inpaint import keep_first, keep_nothing
from sky4.conditioning.reprojection import ShotGuess, guess_shot, guessable
from sky4.encoders.another_shot import encoded_alone, encoded_still
from sky4.encoders.protocols import AudioCodec, VideoCodec
from sky4.geometry import ClipGeometry
from sky4.shots.kinds import Content as ShotContent
from sky4.shots.words import switched
from sky4.train.family_batches import Content
from sky4.train.latent_cache import LatentPool, Manifest
from sky4.train.tasks import Task
from sky4.world.instructions import take_caption
from sky4.world.lexicon import Language
from sky4.world.render import render_video
from sky4.world.scene import Split
from sky4.world.sound import render_story_audio
from sky4.world.stories import GRID, Story, sample_story
from sky4.world.story_captions import story_caption

STORIES_AT_ONCE = 8


def story_of_two(seed: int, index: int, geometry: ClipGeometry, level: int, split: Split = "train") -> Story:
    """The story number `index` of two shots, cut in the middle of the clip. ValueError where that is inside a latent
    frame, as at another rate than 16 frames a second."""
    middle = round((geometry.latent_frames // 2) * geometry.temporal_compression / geometry.fps / GRID)
    seconds = float(geometry.seconds)
    story = sample_story(seed, index, split, level, seconds=seconds, shots=2, opticals=("cut",), first=middle)
    story_switch(story, geometry)
    return story


def story_switch(story: Story, geometry: ClipGeometry) -> ShotSwitch:
    """Where its second shot begins."""
    return ShotSwitch.at(geometry, cut_frame(story, geometry))


def cut_frame(story: Story, geometry: ClipGeometry) -> int:
    """The first pixel frame of its second shot."""
    return ceil(story.joins[0].begin * geometry.fps)


def encode_stories(
    indices: range,
    manifest: Manifest,
    geometry: ClipGeometry,
    codecs: tuple[VideoCodec, AudioCodec],
    device: torch.device,
) -> dict[str, npt.NDArray[np.float16]]:
    """video [S, C, T, H, W], audio [S, A, C_a], second [S, C, T', H, W]: the second shot encoded by itself, as
    what is made behind a cut is decoded, guess [S, C, 1, H, W]: what it may look like."""
    seen, heard, behind, guessed = [], [], [], []
    still = partial(encoded_still, codec=codecs[0])
    for at in range(0, len(indices), STORIES_AT_ONCE):
        some = indices[at : at + STORIES_AT_ONCE]
        stories = [story_of_two(manifest.scene_seed, index, geometry, manifest.level) for index in some]
        pixels = render_video(stories, geometry.frames, geometry.fps, geometry.height, device=device)
        seen.append(codecs[0].encode(pixels).cpu())
        first = cut_frame(stories[0], geometry)
        behind.append(encoded_alone(pixels[:, :, first:], codecs[0]).cpu())
        guessed.append(guess_shot(pixels[:, :, :first], _contents(stories), still).latents.cpu())
        wave = render_story_audio(stories, geometry.audio_samples, geometry.sample_rate)
        heard.append(codecs[1].encode(wave.to(device)).cpu())
    rows = {"video": seen, "audio": heard, "second": behind, "guess": guessed}
    return {name: torch.cat(parts).to(torch.float16).numpy() for name, parts in rows.items()}


def story_content(
    pool: LatentPool, items: npt.NDArray[np.int64], task: Task, geometry: ClipGeometry
) -> tuple[Content, ShotSwitch | None]:
    """The stories `items`, and where their second shots begin if that is asked for as a transition."""
    video = pool.read("video", items, task.frames, axis=2)
    shape = (len(items), task.frames, video.shape[3], video.shape[4])
    audio = pool.read("audio", items, geometry.audio_tokens, axis=1) if task.has_audio else None
    if task.kind != "transition":
        return Content(video, audio, keep_nothing(shape)), None
    switch = story_switch(_cached(pool, 0, geometry), geometry)
    video = torch.cat((video[:, :, : switch.frame], pool.read("second", items)), dim=2)
    stories = [_cached(pool, index, geometry) for index in pool.scenes(items).tolist()]
    guess = ShotGuess(pool.read("guess", items), guessable(_contents(stories)))
    return Content(video, audio, keep_first(shape, switch.frame), guess=guess), switch


def story_prompt(
    pool: LatentPool, index: int, task: Task, geometry: ClipGeometry, language: Language, random: np.random.Generator
) -> str:
    """A caption of the whole story, or of its second shot with the words of the transition in front.

    Where no sound is made, half of them tell of it all the same, as a user's do who asks for the picture alone.
    """
    story = _cached(pool, index, geometry)
    silent = not task.has_audio and bool(random.random() < 0.5)
    if task.kind == "transition":
        text = take_caption(story.takes[1], language, random, silent=silent)
        return switched(text, story.joins[0].content, random)
    return story_caption(story, language, random, silent=silent)


def _contents(stories: Sequence[Story]) -> list[ShotContent]:
    """How each one's second shot follows the first."""
    return [story.joins[0].content for story in stories]


def _cached(pool: LatentPool, index: int, geometry: ClipGeometry) -> Story:
    return story_of_two(pool.scene_seed, index, pool.manifest.geometry(geometry.patch), pool.level)
