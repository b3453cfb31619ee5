"""Frames given as a user gives them: in a file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sky4.media.lossless import write_lossless
from sky4.pipeline.components import Components
from sky4.pipeline.request import ClipRequest, Source


@contextmanager
def given_clip(frames: NDArray[np.uint8], request: ClipRequest, components: Components) -> Iterator[Source]:
    """Frames [F, H, W, 3] at the request's rate as a source without sound; its file is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "given.mkv"
        write_lossless(path, [frames], None, fps=request.fps, sample_rate=components.folder.sample_rate)
        yield Source(path, str(path), frames=len(frames))
