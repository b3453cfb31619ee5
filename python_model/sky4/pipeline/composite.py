"""From the size that the model works at to the canvas that is written, and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sky4.pipeline.request import Canvas


def stretched(frames: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Frames [f, H, W, 3] resampled to size (width, height), nothing cut off: there and back again is the same view."""
    if frames.shape[2:0:-1] == size:
        return frames
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames])


def laid_into(frames: NDArray[np.uint8], canvas: Canvas | None) -> NDArray[np.uint8]:
    """Made frames [f, H, W, 3] at the canvas's size; as they are without one."""
    return frames if canvas is None else stretched(frames, (canvas.width, canvas.height))
