"""One generation of a model folder, taken apart: seconds by stage, peak memory, and what came out.

S samples.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sky4.media import write_clip
from sky4.pipeline.components import Components
from sky4.pipeline.generate import generate_clip
from sky4.pipeline.request import ClipRequest


@dataclass(frozen=True)
class Generation:
    """seconds: by stage, in their order. video [1, C, T, h, w] latents, wave [2, S] on the CPU in float32."""

    seconds: dict[str, float]
    peak_bytes: int
    video: Tensor
    wave: Tensor

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def generate_once(request: ClipRequest, components: Components, folder: Path | None = None) -> Generation:
    """From the prompt to a file in a temporary folder (below `folder`), as `sky4 generate` does it."""
    laps = _Laps(components.device)
    peak = Peak(components.device)
    clip = generate_clip(request, components, lambda stage, *_: laps.begin(stage))
    laps.begin("decoding the picture")
    frames = list(clip.frames())
    laps.begin("decoding the sound")
    wave = clip.audio()
    laps.begin("writing the file")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        rate = clip.geometry.sample_rate
        write_clip(Path(place) / "clip.mp4", iter(frames), wave, fps=clip.fps, recipe=clip.recipe(), sample_rate=rate)
    video = clip.latents[0]
    assert video is not None
    return Generation(laps.end(), peak.bytes(), video.float().cpu(), torch.from_numpy(wave))


class _Laps:
    """Seconds between the beginnings of stages."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = {}
        self._stage, self._began = "starting", self._now()

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def begin(self, stage: str) -> None:
        if stage != self._stage:
            now = self._now()
            self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._began
            self._stage, self._began = stage, now

    def end(self) -> dict[str, float]:
        self.begin("")
        return self._seconds


class Peak:
    """The most memory held since it was made: of the device, or of this process."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # lets the kernel forget the process's earlier peak

    def bytes(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            import resource

            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
