"""Every length of a clip, derived in one place: pixels, latents, tokens, audio samples, seconds (model.md, section 1).

Letters used here and in the rest of the tree:
    F     pixel frames              T_v   video latent frames
    H_p W_p   token rows, columns   T_a   audio latent tokens
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

AUDIO_CLOCKS = ("ratio", "seconds")


@dataclass(frozen=True)
class ClipGeometry:
    """The sizes of one clip and everything that follows from them.

    `width`, `height` are pixels, `frames` pixel frames, `sample_rate` Hz, `hop` audio samples per audio token;
    `spatial_compression` and `temporal_compression` belong to the video codec, `patch` to the transformer.
    Raises ValueError for a size that codec and patch cannot make, naming the nearest that they can.
    """

    width: int
    height: int
    frames: int
    fps: Fraction = Fraction(16)
    sample_rate: int = 44100
    hop: int = 1024
    spatial_compression: int = 8
    temporal_compression: int = 4
    patch: int = 2

    def __post_init__(self) -> None:
        for name in ("sample_rate", "hop", "spatial_compression", "temporal_compression", "patch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        object.__setattr__(self, "fps", Fraction(self.fps))
        if self.fps <= 0:
            raise ValueError(f"fps must be above 0, got {self.fps}")
        cell = self.spatial_compression * self.patch
        for name in ("width", "height"):
            pixels = getattr(self, name)
            if pixels < 1 or pixels % cell:
                near = _nearest(pixels, cell, 0, cell)
                raise ValueError(f"{name} must be a multiple of {cell} pixels for this model, got {pixels}; {near}")
        if self.frames < 1 or (self.frames - 1) % self.temporal_compression:
            near = _nearest(self.frames, self.temporal_compression, 1, 1)
            raise ValueError(
                f"frames must be {self.temporal_compression}n + 1 for this video codec, got {self.frames}; {near}"
            )

    @property
    def latent_frames(self) -> int:
        """T_v: the first pixel frame alone, then `temporal_compression` frames each."""
        return (self.frames - 1) // self.temporal_compression + 1

    @property
    def latent_height(self) -> int:
        return self.height // self.spatial_compression

    @property
    def latent_width(self) -> int:
        return self.width // self.spatial_compression

    @property
    def grid(self) -> tuple[int, int, int]:
        """(T_v, H_p, W_p): the video tokens as a box, after the patch (1, patch, patch)."""
        return self.latent_frames, self.latent_height // self.patch, self.latent_width // self.patch

    @property
    def video_tokens(self) -> int:
        return math.prod(self.grid)

    @property
    def seconds(self) -> Fraction:
        return self.frames / self.fps

    @property
    def audio_samples(self) -> int:
        """Samples per channel, to the nearest one."""
        return round(self.seconds * self.sample_rate)

    @property
    def audio_tokens(self) -> int:
        """T_a: whole hops only; the codec drops what is left."""
        return self.audio_samples // self.hop

    @property
    def audio_rope_scale(self) -> Fraction:
        """T_v / T_a: how far apart two audio tokens lie on the video's latent time axis (model.md, section 4)."""
        return self.audio_rope_scale_for("ratio")

    def audio_rope_scale_for(self, clock: str) -> Fraction:
        """The distance of two audio tokens in video-latent units.

        `clock` is "ratio" (T_v / T_a, the published rule: both towers end together) or "seconds" (every token at
        its true time). Raises ValueError for another clock and for a clip too short to hold one audio token.
        """
        if clock not in AUDIO_CLOCKS:
            raise ValueError(f"audio_clock must be one of {', '.join(AUDIO_CLOCKS)}, got {clock!r}")
        if clock == "seconds":
            return Fraction(self.hop, self.sample_rate) * self.fps / self.temporal_compression
        if self.audio_tokens == 0:
            raise ValueError(
                f"{self.frames} frames at {self.fps} fps are shorter than one audio token "
                f"({self.hop} samples at {self.sample_rate} Hz); ask for more frames or for video only"
            )
        return Fraction(self.latent_frames, self.audio_tokens)


def frames_for(seconds: Fraction | float, fps: Fraction, temporal_compression: int = 4) -> int:
    """The least frame count of the form `temporal_compression`·n + 1 that lasts at least `seconds`.

    Raises ValueError where `seconds` or `fps` is not above 0.
    """
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"seconds must be above 0, got {float(seconds):g}")
    if fps <= 0:
        raise ValueError(f"fps must be above 0, got {fps}")
    # 1.1 as a float lies just above 11/10; without the limit 1.1 s at 10 fps would ask for 12 frames.
    exact = seconds if isinstance(seconds, Fraction) else Fraction(seconds).limit_denominator(1_000_000)
    wanted = max(1, math.ceil(exact * fps))
    return -(-(wanted - 1) // temporal_compression) * temporal_compression + 1


def _nearest(value: int, step: int, offset: int, least: int) -> str:
    below = (value - offset) // step * step + offset
    if below < least:
        return f"nearest: {least}"
    return f"nearest: {below} or {below + step}"
