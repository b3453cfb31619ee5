"""What a batch takes from talking heads: the sound is given, the picture follows it; some of the picture is kept.

A talking head of any length is made in windows (sky4/pipeline/segments.py): the first goes on from a portrait, a
key frame's window begins with the portrait wherever it lies in the sound, and the others keep the end of the one before
and end on a key frame. A batch has one of these forms.

Legend: B batch, C latent channels, T latent frames, H W latent grid, A audio tokens.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from sky4.conditioning.inpaint import keep_first, keep_last, keep_nothing
from sky4.encoders.protocols import AudioCodec, VideoCodec
from sky4.geometry import ClipGeometry
from sky4.train.family_batches import Content
from sky4.train.keyed import generator
from sky4.train.latent_cache import LatentPool, Manifest
from sky4.train.tasks import Task
from sky4.world.families import sample_family
from sky4.world.instructions import take_caption
from sky4.world.lexicon import Language
from sky4.world.render import render_video
from sky4.world.sound import render_speech_audio
from sky4.world.speech import sample_speech
from sky4.world.take import Take, talking

HEADS_AT_ONCE = 8
LATEST = 8.0  # seconds into what is said that a clip begins at most
# Shares of the forms: a portrait goes on; a portrait before another moment's sound; a beginning goes on; both ends.
FORMS = (0.35, 0.6, 0.75, 1.0)
OVERLAP = 5  # latent frames kept of what went before, a second and a bit


def silent_head(seed: int, index: int) -> Take:
    """Head number `index`, which says nothing yet."""
    return sample_family(seed, index).takes["face"]


def head_of(seed: int, index: int, geometry: ClipGeometry) -> tuple[Take, float]:
    """(head number `index`, the second at which its clip begins): from the start in a third of the clips."""
    random = generator(seed, "head begins", index)
    begin = 0.0 if random.random() < 1 / 3 else float(random.uniform(0, LATEST))
    speech = sample_speech(seed, index, begin + float(geometry.seconds) + 1)
    return talking(silent_head(seed, index), speech), begin


def encode_heads(
    indices: range,
    manifest: Manifest,
    geometry: ClipGeometry,
    codecs: tuple[VideoCodec, AudioCodec],
    device: torch.device,
) -> dict[str, npt.NDArray[np.float16]]:
    """video [S, C, T, H, W], audio [S, A, C_a], portrait [S, C, 1, H, W]: the head before it says anything."""
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in ("video", "audio", "portrait")}
    for at in range(0, len(indices), HEADS_AT_ONCE):
        some = indices[at : at + HEADS_AT_ONCE]
        heads, begins = zip(*(head_of(manifest.scene_seed, index, geometry) for index in some), strict=True)
        pixels = render_video(heads, geometry.frames, geometry.fps, geometry.height, begins, device)
        rows["video"].append(codecs[0].encode(pixels).cpu())
        rows["portrait"].append(codecs[0].encode(render_video(heads, 1, 1, geometry.height, 0.0, device)).cpu())
        wave = render_speech_audio(heads, geometry.audio_samples, geometry.sample_rate, begins)
        rows["audio"].append(codecs[1].encode(wave.to(device)).cpu())
    return {name: torch.cat(parts).to(torch.float16).numpy() for name, parts in rows.items()}


def head_content(
    pool: LatentPool, items: npt.NDArray[np.int64], task: Task, geometry: ClipGeometry, seed: int, batch: int
) -> Content:
    """The heads `items` in the batch's form."""
    video = pool.read("video", items, task.frames, axis=2)
    shape = (len(items), task.frames, video.shape[3], video.shape[4])
    audio = pool.read("audio", items, geometry.audio_tokens, axis=1)
    draw, first = generator(seed, "form of heads", batch).random(), min(OVERLAP, task.frames - 1)
    if task.frames == 1:
        keep = keep_nothing(shape)
    elif draw < FORMS[1]:
        keep = keep_first(shape)
        if draw >= FORMS[0]:
            video = torch.cat((pool.read("portrait", items), video[:, :, 1:]), dim=2)
    elif draw < FORMS[2]:
        keep = keep_first(shape, first)
    else:
        keep = torch.maximum(keep_first(shape, first), keep_last(shape))
    return Content(video, audio, keep)


def head_prompt(pool: LatentPool, index: int, language: Language, random: np.random.Generator) -> str:
    """The words for head `index`, without what it says: that is heard."""
    return take_caption(silent_head(pool.scene_seed, index), language, random)
