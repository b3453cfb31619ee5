"""What a stage is, and what one is counted from.

B = 1   C latent channels   T latent frames   h w latent grid
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from sky4.geometry import ClipGeometry
from sky4.pipeline.economy import NO_ECONOMY, Economy
from sky4.pipeline.request import ClipRequest
from sky4.pipeline.segments import plan
from sky4.planning.networks import Networks
from sky4.planning.sketch import ModelSketch
from sky4.planning.trace import Cost


@dataclass(frozen=True)
class Stage:
    """calls: how often `call` is made for the whole request. held_bytes: of the clip's own data beside the call.

    tokens and shapes are for people.
    """

    name: str
    parts: tuple[str, ...]
    calls: int
    call: Cost
    held_bytes: int = 0
    tokens: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def cost(self) -> Cost:
        return self.call.times(self.calls)


@dataclass(frozen=True)
class Setting:
    """Where and how it is computed: "cpu" or "cuda", the networks' dtype, how memory is saved, and how many processes
    share the towers' and the refiner's work."""

    device: str
    dtype: torch.dtype
    economy: Economy = NO_ECONOMY
    processes: int = 1


@dataclass(frozen=True)
class Work:
    """A request as its stages see it. geometry: of what the model makes at once; high: the same refined, None where
    nothing is. text_tokens: of the longer prompt."""

    request: ClipRequest
    geometry: ClipGeometry
    high: ClipGeometry | None
    text_tokens: int
    sketch: ModelSketch
    networks: Networks
    setting: Setting

    @property
    def device(self) -> str:
        """Where empty tensors are made."""
        return self.networks.device

    @property
    def windows(self) -> int:
        return len(plan(self.request, self.geometry))

    @property
    def decoded(self) -> int:
        """Windows of which something is shown."""
        return sum(not window.anchor for window in plan(self.request, self.geometry))

    @property
    def shown(self) -> ClipGeometry:
        """Of what is decoded."""
        return self.high or self.geometry
