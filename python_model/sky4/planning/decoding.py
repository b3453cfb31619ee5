"""The stages after sampling: sound, picture, and the encoder of the output.

T_a audio tokens   F frames   H W pixels
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import torch

from sky4.encoders.protocols import VideoCodec
from sky4.geometry import ClipGeometry
from sky4.pipeline.windows import as_bytes
from sky4.planning.trace import Cost, traced
from sky4.planning.work import Stage, Work

ENCODER_FRAMES = 60  # that a video encoder holds back: its lookahead, its references and what its threads work on


def sound_stage(work: Work) -> Stage:
    """A window's sound."""
    request, geometry, networks = work.request, work.geometry, work.networks
    codec = networks.audio_codec
    latents = torch.empty(1, geometry.audio_tokens, codec.channels, device=work.device)
    call = traced(lambda: codec.decode(latents, geometry.audio_samples), work.setting.device)
    calls = work.windows * request.variations
    shape = {"wave": (1, 2, geometry.audio_samples)}
    return Stage("decode sound", ("audio_codec",), calls, call, 0, {"audio": geometry.audio_tokens}, shape)


def picture_stage(work: Work) -> Stage:
    """A window's frames, in the chunks that they are decoded in."""
    request, geometry = work.request, work.shown
    call = frames_cost(work, geometry)
    if work.high is not None and work.sketch.folder.refiner().held:  # to the frames of the clip before
        call = call.then(frames_cost(work, work.geometry))
    calls = work.decoded * request.variations
    wave = 2 * geometry.audio_samples * 4 if request.wants_audio else 0
    shape = {"pixels": (1, 3, geometry.frames, geometry.height, geometry.width)}
    named = {"latent frames": geometry.latent_frames}
    return Stage("decode picture", ("video_codec",), calls, call, wave, named, shape)


def frames_cost(work: Work, geometry: ClipGeometry) -> Cost:
    """Of decoding a window of this geometry into frames, chunk by chunk."""
    codec = work.networks.video_codec()
    grid = geometry.latent_height, geometry.latent_width

    def decode(count: int) -> Cost:
        latents = torch.empty(1, codec.channels, count, *grid, device=work.device)

        def frames() -> None:
            for chunk in codec.decode(latents):
                as_bytes(chunk)

        return traced(frames, work.setting.device)

    return by_length(decode, geometry.latent_frames, chunk_of(codec, geometry.height, geometry.width))


def mux_stage(work: Work) -> Stage:
    """The encoder of the output; counted in pixels, as no operation of ours is in it."""
    request, geometry = work.request, work.shown
    canvas = request.canvas or geometry
    width, height = canvas.width, canvas.height
    made = geometry.frames if request.segments is None else request.out_frames
    frames = min(request.out_frames, made) if request.wants_video else 0
    pixels = frames * width * height
    held = min(frames, ENCODER_FRAMES) * width * height * 3
    cost = Cost(moved_bytes=3 * pixels, operations=frames, peak_bytes=held, mapped_bytes=held)
    return Stage("mux", (), request.variations, cost, 0, {"frames": frames}, {"frames": (frames, height, width, 3)})


def chunk_of(codec: VideoCodec, height: int, width: int) -> int:
    """Latent frames that the codec takes at once."""
    chosen: Callable[[int, int], int] | None = getattr(codec, "_latent_frames", None)
    return 3 if chosen is None else chosen(height, width)


def by_length(cost_of: Callable[[int], Cost], latents: int, chunk: int) -> Cost:
    """The cost for so many latent frames, of which `chunk` are taken at once behind a first one.

    From the third chunk on each costs what the one before did, so that long clips are counted on short ones.
    """
    short, long = 1 + 2 * chunk, 1 + 3 * chunk
    if latents <= long:
        return cost_of(latents)
    first, second = cost_of(short), cost_of(long)
    chunks = (latents - short) / chunk
    return Cost(
        **{
            f.name: round(getattr(first, f.name) + chunks * (getattr(second, f.name) - getattr(first, f.name)))
            for f in fields(Cost)
        }
    )
