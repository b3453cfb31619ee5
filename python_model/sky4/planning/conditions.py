"""The stage before sampling: how much is given, and what it costs to encode it.

F frames   H W pixels
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from sky4.geometry import ClipGeometry
from sky4.media import probe_audio, probe_image, probe_video
from sky4.pipeline.given import fitting
from sky4.pipeline.request import ClipRequest
from sky4.pipeline.segments import whole_source
from sky4.planning.decoding import by_length, chunk_of, frames_cost
from sky4.planning.trace import HEAP_BLOCK, Cost, traced
from sky4.planning.work import Stage, Work


@dataclass(frozen=True)
class ReferenceSizes:
    """video: (latent frames, height, width in pixels) of each; audio_tokens: of all together."""

    video: tuple[tuple[int, int, int], ...] = ()
    audio_tokens: int = 0


def reference_sizes(request: ClipRequest, geometry: ClipGeometry) -> ReferenceSizes:
    """What the references amount to. RequestError for files that cannot be read."""
    video, audio_tokens = [], 0
    step = geometry.temporal_compression
    for file in request.references:
        if file.kind == "audio":
            samples = min(probe_audio(file.path), float(geometry.seconds)) * geometry.sample_rate
            audio_tokens += int(samples) // geometry.hop
        elif file.kind == "image":
            width, height = fitting(probe_image(file.path), geometry)
            video.append((1, height, width))
        else:
            facts = probe_video(file.path)
            width, height = fitting((facts.width, facts.height), geometry)
            count, lasts = min(request.frames, geometry.frames), round(facts.seconds * request.fps) - file.skip
            latents = geometry.latent_frames if lasts >= count else max(0, lasts - 1) // step + 1
            video.append((latents, height, width))
    return ReferenceSizes(tuple(video) if request.runs_video else (), audio_tokens if request.runs_audio else 0)


def conditions_stage(work: Work, references: ReferenceSizes) -> Stage:
    """What is given, encoded: a black clip, sources, references, a whole picture or sound."""
    request, geometry, high, networks = work.request, work.geometry, work.high, work.networks
    clip = (geometry.latent_frames, geometry.height, geometry.width)
    step, windows = geometry.temporal_compression, work.windows
    encoded = [clip, *references.video] if request.runs_video else []
    if request.video is not None:
        encoded += [clip] * windows
    kept = whole_source(request)
    for source in request.sources:
        if source != kept:
            encoded.append((max(0, min(source.frames, geometry.frames) - 1) // step + 1, *clip[1:]))
    if request.segments is not None and request.wants_video:
        encoded += [(request.segments.overlap // step + 1, *clip[1:])] * windows
    if high is not None and request.sources:  # sources may be given at the refined size too, and then are
        whole = (high.latent_frames, high.height, high.width)
        encoded += [whole, *((max(0, s.frames - 1) // step + 1, *whole[1:]) for s in request.sources)]
    cost = Cost()
    known: dict[tuple[int, int, int], Cost] = {}
    for size in encoded:
        if size not in known:
            known[size] = _encoding(size, work)
        cost = cost.then(known[size])
    parts: tuple[str, ...] = ("video_codec",) if encoded else ()
    sounds = 1 + len(request.speakers) if request.driven else 0  # all together, and each by itself
    heard = references.audio_tokens + geometry.audio_tokens * windows * sounds
    if heard:
        parts += ("audio_codec",)
        wave = torch.empty(1, 2, heard * geometry.hop, device=networks.device)
        cost = cost.then(traced(lambda: networks.audio_codec.encode(wave), work.setting.device))
    frames = sum((latents - 1) * step + 1 for latents, _, _ in encoded)
    return Stage("conditions", parts, 1, cost, 0, {"frames": frames}, {"pixels": (1, 3, geometry.frames, *clip[1:])})


def enlarging_stage(work: Work) -> Stage | None:
    """What the refiner starts from, where that is the clip's pixels enlarged and encoded; a made clip is decoded first.

    None where it starts from the latents.
    """
    request, low, high = work.request, work.geometry, work.high
    if high is None or not work.sketch.folder.refiner().enlarges:
        return None
    cost = _encoding((high.latent_frames, high.height, high.width), work)
    held = 3 * high.frames * high.height * high.width * 4  # the pixels before they are spread in time
    if not request.shows_given:
        cost = frames_cost(work, low).then(cost)
    shape = {"pixels": (1, 3, high.frames, high.height, high.width)}
    calls = work.windows * request.variations
    return Stage("enlarge", ("video_codec",), calls, cost, held, {"frames": high.frames}, shape)


def _encoding(size: tuple[int, int, int], work: Work) -> Cost:
    """Of (latent frames, height, width)."""
    codec, (latents, height, width) = work.networks.video_codec(), size
    step = work.geometry.temporal_compression

    def encode(count: int) -> Cost:
        pixels = torch.empty(1, 3, (count - 1) * step + 1, height, width, device=work.device)
        cost = traced(lambda: codec.encode(pixels), work.setting.device)
        return _with_peak(cost, pixels.numel() * 4)  # the pixels themselves are made for it

    return by_length(encode, latents, chunk_of(codec, height, width))


def _with_peak(cost: Cost, beside: int) -> Cost:
    """Where so many bytes, in one block, are alive beside it."""
    where = ("peak_bytes", "heap_bytes" if beside <= HEAP_BLOCK else "mapped_bytes")
    return replace(cost, **{name: getattr(cost, name) + beside for name in where})
