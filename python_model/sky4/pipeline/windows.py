"""A made window: its latents, the frames and sound that they decode to, and what the next window keeps of them.

Legend: C latent channels, T latent frames, h w latent grid, T_a audio tokens, f frames of a chunk, F frames, S samples.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sky4.diffusion.sampler import State
from sky4.encoders.another_shot import decoded_alone
from sky4.encoders.protocols import AudioCodec
from sky4.errors import Sky4Failure
from sky4.geometry import ClipGeometry
from sky4.pipeline.components import Components
from sky4.pipeline.given import source_frames
from sky4.pipeline.grounding import grounded
from sky4.pipeline.joining import ColourMatch, SoundPiece
from sky4.pipeline.request import ClipRequest
from sky4.pipeline.segments import Window, whole_source

Frames = NDArray[np.uint8]  # [f, H, W, 3]


@dataclass(frozen=True)
class MadeWindow:
    """latents: (video [1, C, T, h, w], audio [1, T_a, C]), None where the tower did not run.

    match: what gives its frames the colours of those that it keeps; None where it keeps none. rate: frames that the
    latents hold for each of the window's. low: the latents [1, C, T, h, w] before they were refined, whose frames the
    refined ones are held to; None where they are not.
    """

    window: Window
    latents: State
    match: ColourMatch | None = None
    rate: int = 1
    low: Tensor | None = None

    def shown(self, components: Components) -> Iterator[Frames]:
        """The frames that become the clip's, `rate` for each of the window's, in chunks [f, H, W, 3]."""
        if self.low is None:
            yield from self._decoded(components)
            return
        before = MadeWindow(self.window, (self.low, None), self.match)
        small = (frame for chunk in before.frames(components, *self.window.shown) for frame in chunk)
        yield from grounded(self._decoded(components), small, self.rate)

    def _decoded(self, components: Components) -> Iterator[Frames]:
        """What is shown, as decoded. Of n frames at twice the rate the codec makes 2n - 1: the last one is held."""
        begin, end = (frame * self.rate for frame in self.window.shown)
        if begin == end:
            return
        left = end - begin
        last: Frames | None = None
        for chunk in self.frames(components, begin, end):
            left -= len(chunk)
            last = chunk[-1:]
            yield chunk
        if left and last is not None:
            yield np.repeat(last, left, axis=0)

    def frames(self, components: Components, begin: int, end: int) -> Iterator[Frames]:
        """Its own frames [begin, end) in chunks [f, H, W, 3], decoded as they are asked for and matched in colour."""
        at = 0
        for chunk in self._chunks(components):
            first, at = at, at + chunk.shape[2]
            frames = to_frames(chunk[:, :, max(0, begin - first) : max(0, end - first)])
            if len(frames):
                yield self.matched(frames, max(begin, first))
            if at >= end:
                return

    def _chunks(self, components: Components) -> Iterator[Tensor]:
        """All its frames as decoded, in chunks [1, 3, f, H, W].

        A causal codec blends another shot's first frames with the shot before, and no cut is seen: that shot is decoded
        by itself. Not where its first frame lies inside a latent one, as at twice the rate.
        """
        latents, codec = self.latents[0], components.video_codec
        assert latents is not None, "no picture was asked for"
        begins = 0 if self.window.switch is None else self.window.switch * self.rate
        group, inside = divmod(begins - 1, components.folder.temporal_compression)
        if begins == 0 or inside:
            yield from codec.decode(latents)
            return
        yield from codec.decode(latents[:, :, : group + 1])
        yield from decoded_alone(latents[:, :, group + 1 :], codec)

    def matched(self, frames: Frames, first: int) -> Frames:
        """Decoded frames, the first of which is its own frame `first`, in the colours of what it continues."""
        if self.match is None:
            return frames
        at = [(first + index) // self.rate for index in range(len(frames))]
        return self.match.apply(frames, [self.window.strength(frame) for frame in at])

    def sound(self, codec: AudioCodec, request: ClipRequest, geometry: ClipGeometry) -> SoundPiece:
        """Its sound where the clip has it, as long as whole audio tokens last. Sky4Failure where it is not finite."""
        latents = self.latents[1]
        assert latents is not None, "no sound was asked for"
        with torch.inference_mode():
            wave = codec.decode(latents, geometry.audio_samples)[0, :, : geometry.audio_tokens * geometry.hop]
        if not bool(wave.isfinite().all()):
            raise Sky4Failure("the decoded sound is not finite, so nothing was saved; compute with --dtype float32")
        begin, end = (self.window.first + frame for frame in self.window.shown)
        return SoundPiece(
            np.asarray(wave.float().cpu().numpy(), np.float32),
            sample_at(self.window.first, request, geometry),
            sample_at(begin, request, geometry),
            sample_at(end, request, geometry),
        )


def sample_at(frame: int, request: ClipRequest, geometry: ClipGeometry) -> int:
    """The sample of the sound that is heard when a frame of the clip appears."""
    return round(frame / request.fps * geometry.sample_rate)


def overlap_of_source(request: ClipRequest, geometry: ClipGeometry) -> Frames | None:
    """What the first window keeps of the source that the clip extends: frames [F, H, W, 3] at the working size."""
    source, segments = whole_source(request), request.segments
    if source is None or segments is None:
        return None
    before = 0 if segments.backward else source.frames - segments.overlap
    part = replace(source, frames=segments.overlap, skip=source.skip + before)
    return source_frames(part, request, geometry)[0]


def continued_on(
    made: MadeWindow, kept: Frames | None, overlap: int, components: Components
) -> tuple[MadeWindow, Frames | None]:
    """The window in the colours of the frames [F, H, W, 3] that it keeps, and the `overlap` frames the next one keeps.

    What begins another shot has colours of its own. Nothing is decoded where neither is wanted. Both ends of the window
    are held, never all of it.
    """
    if kept is None and overlap == 0:
        return made, None
    window, keeps = made.window, 0 if kept is None else len(kept)
    if window.begins_a_shot:
        kept, keeps = None, 0
        if overlap == 0:
            return made, None
    heads, tails = (overlap, keeps) if window.backward else (keeps, overlap)
    head: list[Frames] = []
    tail: deque[Frames] = deque(maxlen=tails)
    for chunk in made.frames(components, 0, window.size if tails else heads):
        head.extend(chunk[: max(0, heads - len(head))])
        tail.extend(chunk)
    if kept is not None:
        near = np.stack(tail if window.backward else head)
        made = replace(made, match=ColourMatch.between(near, kept))
    if overlap == 0:
        return made, None
    far, first = (head, 0) if window.backward else (list(tail), window.size - overlap)
    return made, made.matched(np.stack(far), first)


def kept_again(made: MadeWindow, overlap: int, components: Components) -> Frames | None:
    """The `overlap` frames that the window behind a made one keeps, as continued_on gave them; decoded once more."""
    frames = continued_on(replace(made, match=None), None, overlap, components)[1]
    first = 0 if made.window.backward else made.window.size - overlap
    return None if frames is None else made.matched(frames, first)


def to_frames(chunk: Tensor) -> Frames:
    """Pixels [1, 3, f, H, W] in [-1, 1] to frames [f, H, W, 3]. Sky4Failure where they are not finite."""
    if not bool(chunk.isfinite().all()):
        raise Sky4Failure("the decoded picture is not finite, so nothing was saved; compute with --dtype float32")
    return np.asarray(as_bytes(chunk).cpu().contiguous().numpy(), np.uint8)


def as_bytes(chunk: Tensor) -> Tensor:
    """Pixels [1, 3, f, H, W] in [-1, 1] as uint8 [f, H, W, 3]."""
    return chunk[0].permute(1, 2, 3, 0).add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)
