"""Files that lose nothing: FFV1 in RGB and PCM, every value as it is; what lies between two steps of a work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from sky4.media.opening import located
from sky4.media.recipe import COMMENT, encode_recipe

PIECE = 44_100  # samples that are written at once


def write_lossless(
    path: Path,
    frames: Iterable[NDArray[np.uint8]] | None,
    wave: NDArray[np.float32] | None,
    *,
    fps: Fraction,
    sample_rate: int,
    recipe: Mapping[str, Any] | None = None,
    muxer: str = "matroska",
) -> int:
    """Write chunks of frames [f, H, W, 3] and a wave [2, S] into Matroska (or "wav"); returns how many frames.

    The sound is 32-bit float. An OSError, or one of libav's, where the disk does not take it.
    """
    count = 0
    with av.open(located(path), "w", format=muxer) as container:
        if recipe is not None:
            container.metadata[COMMENT] = encode_recipe(recipe)
        chunks = iter(()) if frames is None else iter(frames)
        first = next(chunks, None)
        picture = sound = None
        if first is not None:
            picture = container.add_stream("ffv1", rate=fps)
            assert isinstance(picture, VideoStream)
            picture.width, picture.height, picture.pix_fmt = first.shape[2], first.shape[1], "bgr0"
            picture.time_base = 1 / fps
        if wave is not None:
            sound = container.add_stream("pcm_f32le", rate=sample_rate, layout="stereo")
            assert isinstance(sound, AudioStream)
        while first is not None and picture is not None:
            for frame in first:
                pixels = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(format="bgr0")
                pixels.pts, pixels.time_base = count, 1 / fps
                container.mux(picture.encode(pixels))
                count += 1
            first = next(chunks, None)
        if picture is not None:
            container.mux(picture.encode(None))
        if wave is not None and sound is not None:
            for begin in range(0, wave.shape[1], PIECE):
                part = np.ascontiguousarray(wave[:, begin : begin + PIECE].T.reshape(1, -1), np.float32)
                packed = AudioFrame.from_ndarray(part, format="flt", layout="stereo")
                packed.sample_rate, packed.pts, packed.time_base = sample_rate, begin, Fraction(1, sample_rate)
                container.mux(sound.encode(packed))
            container.mux(sound.encode(None))
    return count
