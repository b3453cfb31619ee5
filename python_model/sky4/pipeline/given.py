"""What is given, as latents: kept frames, references, a whole modality. Files in, conditioning's values out.

Legend: B = 1, C latent channels, T latent frames, F pixel frames, H W pixels, h w latent grid, S samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sky4.conditioning import (
    AudioReferences,
    ShotSwitch,
    VideoCondition,
    VideoReferences,
    join_audio_references,
    join_video_references,
)
from sky4.conditioning.inpaint import condition_on, guided_by, keep_where, unconditioned
from sky4.conditioning.reprojection import ShotGuess
from sky4.conditioning.voices import Voice
from sky4.encoders.protocols import AudioCodec, AudioReference, ImageReference, Reference, VideoCodec, VideoReference
from sky4.errors import RequestError
from sky4.geometry import ClipGeometry
from sky4.media import iterate_video, probe_image, probe_video, read_audio, read_image, read_video
from sky4.pipeline.canvas import condition_frames
from sky4.pipeline.request import ClipRequest, Source
from sky4.pipeline.speakers import cell_shares, regions
from sky4.prompting.references import ReferenceFile


@dataclass(frozen=True)
class Continued:
    """Frames [F, H, W, 3] at the working size that a window keeps: its first ones, or its last where it leads up to
    them. F = 4n + 1, as the codec groups frames."""

    frames: NDArray[np.uint8]
    backward: bool = False


def video_condition(
    request: ClipRequest,
    geometry: ClipGeometry,
    codec: VideoCodec,
    continued: Continued | None = None,
    *,
    guided: bool = False,
    film: Tensor | None = None,
    end: Tensor | None = None,
    switch: ShotSwitch | None = None,
    guess: ShotGuess | None = None,
) -> VideoCondition:
    """The condition latents I and the keep mask M that the request's sources, and frames it continues, amount to.

    end: latents [1, C, t, h, w] that the clip ends on. switch: where another shot begins, and
    guess what it may look like.

    guided: whether the model starts from what is known of the clip: of its sources, or else of `film` [1, C, T, h, w].
    """
    black = codec.black(geometry.frames, geometry.height, geometry.width)
    if not request.sources and continued is None and end is None and not (guided and film is not None):
        return unconditioned(black)
    latents, keep = black.clone(), torch.zeros_like(black[:, :1])
    filled = latents.clone()  # with the sources' masked pixels as they were filled
    parts = [] if end is None else [(geometry.latent_frames - end.shape[2], end, torch.ones_like(end[:, :1]))]
    parts += [_source_latents(source, request, geometry, codec) for source in request.sources]
    if continued is not None:
        parts.append(_continued_latents(continued, geometry, codec))
    for first, encoded, kept in parts:
        cells = slice(first, first + encoded.shape[2])
        latents[:, :, cells] = torch.where(kept > 0.5, encoded, latents[:, :, cells])
        keep[:, :, cells] = torch.maximum(keep[:, :, cells], kept)
        filled[:, :, cells] = encoded
    if guided:
        return guided_by(latents, keep, black, filled if bool(keep.any()) else film, switch, guess)
    return condition_on(latents, keep, black)


def _source_latents(
    source: Source, request: ClipRequest, geometry: ClipGeometry, codec: VideoCodec
) -> tuple[int, Tensor, Tensor]:
    """(its first latent frame, its latents [1, C, t, h, w], its keep mask [1, 1, t, h, w]).

    A picture is held over the group of frames it falls into.

    The codec is causal and its first latent frame stands alone, so what begins later is encoded behind a lead of one
    held frame, whose latent is dropped.
    """
    start = request.start_of(source)
    frames, kept = source_frames(source, request, geometry)
    step = geometry.temporal_compression
    first, last = _group(start, step), _group(start + source.frames - 1, step)
    begins = 0 if first == 0 else (first - 1) * step + 1  # pixel frames of the groups
    ends = last * step + 1
    lead = 0 if first == 0 else 1
    around = (start - begins + lead, ends - (start + source.frames))
    held = np.pad(frames, (around, (0, 0), (0, 0), (0, 0)), mode="edge")
    kept = np.pad(kept, (around, (0, 0), (0, 0)), mode="edge")
    encoded = codec.encode(to_pixels(held))
    keep = keep_where(torch.from_numpy(kept)[None, None], geometry.spatial_compression, step)
    return first, encoded[:, :, lead:], keep[:, :, lead:].to(encoded)


def _continued_latents(continued: Continued, geometry: ClipGeometry, codec: VideoCodec) -> tuple[int, Tensor, Tensor]:
    """As _source_latents. At a window's end, the frame that the codec codes alone leads the others and is dropped."""
    encoded = codec.encode(to_pixels(continued.frames))
    encoded = encoded[:, :, 1:] if continued.backward else encoded
    first = geometry.latent_frames - encoded.shape[2] if continued.backward else 0
    return first, encoded, torch.ones_like(encoded[:, :1])


def _group(frame: int, step: int) -> int:
    """The latent frame that a pixel frame falls into: 0 alone, then `step` frames each."""
    return 0 if frame == 0 else (frame - 1) // step + 1


def source_frames(
    source: Source, request: ClipRequest, geometry: ClipGeometry
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """(frames [F, H, W, 3], which pixels of them are kept [F, H, W]) at the clip's size; the last one is held.

    With a canvas all of it is seen, stretched; without one the largest part that has the clip's proportions.
    """
    size = geometry.width, geometry.height
    if request.canvas is not None:
        return condition_frames(source, request.canvas, request.fps, size)
    if source.is_picture:
        frames = read_image(source.path, size)[None]
    else:
        pictures = islice(iterate_video(source.path, request.fps, size, skip=source.skip), source.frames)
        frames = hold_last(np.stack(list(pictures)), source.frames)
    return frames, np.ones(frames.shape[:3], bool)


def hold_last(frames: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """[F, H, W, 3] continued to `count` frames by its last one."""
    return np.pad(frames, ((0, max(0, count - len(frames))), (0, 0), (0, 0), (0, 0)), mode="edge")


def given_video(path: Path, request: ClipRequest, geometry: ClipGeometry, codec: VideoCodec, first: int = 0) -> Tensor:
    """Latents [1, C, T, h, w] of a window, from frame `first` on, of a clip that is given whole."""
    return codec.encode(to_pixels(_video_frames(path, request, geometry, first)))


def _video_frames(path: Path, request: ClipRequest, geometry: ClipGeometry, first: int) -> NDArray[np.uint8]:
    size = geometry.width, geometry.height
    frames = np.stack(list(islice(iterate_video(path, request.fps, size, first), geometry.frames)))
    return hold_last(frames, geometry.frames)


def given_frames(request: ClipRequest, geometry: ClipGeometry, first: int) -> NDArray[np.uint8] | None:
    """Frames [F, H, W, 3] of a window's request, which begins with the clip's frame `first`, where a clip or picture
    gives all of them; None where they are made."""
    if request.video is not None:
        return _video_frames(request.video, request, geometry, first)
    source = request.given_whole
    if source is None or not request.shows_given:
        return None
    return hold_last(source_frames(source, request, geometry)[0], geometry.frames)


def given_audio(wave: NDArray[np.float32], geometry: ClipGeometry, codec: AudioCodec) -> Tensor:
    """Latents [1, T_a, C] of a window's sound [2, S]; silence where it ends."""
    return codec.encode(torch.from_numpy(padded(wave, geometry.audio_samples))[None])


def voices_of(request: ClipRequest, geometry: ClipGeometry, codec: AudioCodec, first: int = 0) -> tuple[Voice, ...]:
    """The speakers' sounds in a window, from frame `first` on, and the cells that each drives."""
    made = []
    for speaker, selected in zip(request.speakers, regions(request), strict=True):
        until = float((first + geometry.frames) / geometry.fps)
        wave = read_audio(speaker.path, until, geometry.sample_rate, round(first / geometry.fps * geometry.sample_rate))
        shares = torch.from_numpy(cell_shares(selected, geometry.spatial_compression))
        made.append(Voice(given_audio(wave, geometry, codec), shares[None, None, None]))
    return tuple(made)


def padded(wave: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    """A wave [2, S] cut, or filled up with silence, to `samples`; itself where it has as many."""
    if wave.shape[1] == samples:
        return wave
    return np.pad(wave[:, :samples], ((0, 0), (0, max(0, samples - wave.shape[1]))))


def references(
    files: tuple[ReferenceFile, ...],
    request: ClipRequest,
    geometry: ClipGeometry,
    video_codec: VideoCodec | None,
    audio_codec: AudioCodec | None,
) -> tuple[VideoReferences | None, AudioReferences | None, Tensor | None]:
    """In-context latents of the references, in the order given: pictures and films for one tower, sounds for the other;
    and the film [1, C, T, h, w] that is as long and as large as the clip: the last such one, None where there is none.

    A codec is needed only where its tower runs.
    """
    seen, heard, film = [], [], None
    whole = (geometry.latent_frames, geometry.latent_height, geometry.latent_width)
    for file in files:
        if file.kind == "audio" and audio_codec is not None:
            heard.append(_heard(file, geometry, audio_codec))
        elif file.kind != "audio" and video_codec is not None:
            latents = video_codec.encode(to_pixels(_seen(file, request, geometry)))
            film = latents if file.kind == "video" and tuple(latents.shape[2:]) == whole else film
            seen.append(latents[0])
    return join_video_references([seen], geometry.patch), join_audio_references([heard]), film


def _seen(file: ReferenceFile, request: ClipRequest, geometry: ClipGeometry) -> NDArray[np.uint8]:
    """A reference's frames, scaled as large as fits into the clip's size with its own proportions.

    Of a film, as many as are made at once, at the clip's rate, in whole groups; one as long as the clip is held to the
    clip's last group, as the clip itself is.
    """
    if file.kind == "image":
        return read_image(file.path, fitting(probe_image(file.path), geometry))[None]
    facts = probe_video(file.path)
    size = fitting((facts.width, facts.height), geometry)
    count = min(request.frames, geometry.frames)
    frames = read_video(file.path, request.fps, size, count, file.skip)
    if len(frames) == count:
        return hold_last(frames, geometry.frames)
    step = geometry.temporal_compression
    return frames[: (len(frames) - 1) // step * step + 1]


def fitting(size: tuple[int, int], geometry: ClipGeometry) -> tuple[int, int]:
    """The size in whole cells; a side that misses the clip's by less than a cell has it, so that both grids agree."""
    cell = geometry.spatial_compression * geometry.patch
    scale = min(geometry.width / size[0], geometry.height / size[1])
    limits = geometry.width, geometry.height
    width, height = (
        limit if limit - side * scale < cell else max(round(side * scale / cell) * cell, cell)
        for side, limit in zip(size, limits, strict=True)
    )
    return width, height


def _heard(file: ReferenceFile, geometry: ClipGeometry, codec: AudioCodec) -> Tensor:
    wave = read_audio(file.path, float(geometry.seconds), geometry.sample_rate)
    whole = wave.shape[1] // geometry.hop * geometry.hop
    if whole == 0:
        raise RequestError(
            f"--ref {file.name}={file.path} is shorter than {geometry.hop} samples, one audio token; give more sound"
        )
    return codec.encode(torch.from_numpy(wave[:, :whole])[None])[0]


def shown_references(files: tuple[ReferenceFile, ...], request: ClipRequest, geometry: ClipGeometry) -> list[Reference]:
    """The references as the text encoder's own senses take them."""
    shown: list[Reference] = []
    for file in files:
        if file.kind == "image":
            shown.append(ImageReference(file.name, read_image(file.path)))
        elif file.kind == "video":
            shown.append(VideoReference(file.name, _seen(file, request, geometry)))
        else:
            shown.append(AudioReference(file.name, read_audio(file.path, float(geometry.seconds))))
    return shown


def to_pixels(frames: NDArray[np.uint8]) -> Tensor:
    """Frames [F, H, W, 3] of 0..255 to pixels [1, 3, F, H, W] in [-1, 1]."""
    return torch.from_numpy(np.array(frames)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1.0
