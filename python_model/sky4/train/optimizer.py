"""Muon for the matrices inside the blocks, AdamW for everything else; the schedule; which steps are not taken.

Muon is meant for hidden matrices. Embeddings, input and output projections, modulation, norms and biases stay with
AdamW.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from sky4.distributed.ranks import ALONE, Ranks
from sky4.errors import Sky4Failure
from sky4.train.muon import Muon
from sky4.train.settings import OptimizerSettings, ScheduleSettings

NOT_DECAYED = ("norm", "embed", "bias")  # parts of names whose weights are never decayed
HISTORY = 101  # steps whose gradient norms the spike test remembers
YOUNG = 20  # steps before it judges


def is_hidden_matrix(name: str, weight: Tensor) -> bool:
    """Whether Muon takes this weight: a matrix of an attention or an MLP inside a block or an exchange."""
    inside = "blocks." in name or "exchanges." in name
    return weight.ndim == 2 and inside and not any(part in name for part in (*NOT_DECAYED, "modulation"))


class Optimizers:
    """One or two torch optimizers behind one step, with their state by weight name."""

    def __init__(self, model: nn.Module, settings: OptimizerSettings, ranks: Ranks = ALONE) -> None:
        self._names: dict[Tensor, str] = {weight: name for name, weight in model.named_parameters()}
        muon, decayed, plain = [], [], []
        for weight, name in self._names.items():
            if settings.kind == "muon" and is_hidden_matrix(name, weight):
                muon.append(weight)
            elif weight.ndim >= 2 and not any(part in name for part in NOT_DECAYED):
                decayed.append(weight)
            else:
                plain.append(weight)
        device = next(iter(self._names)).device
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                [group for group in groups if group["params"]],
                lr=settings.lr,
                betas=settings.betas,
                fused=device.type in ("cpu", "cuda"),
            )
        ]
        if muon:
            self._parts.append(
                Muon(
                    muon,
                    settings.muon_lr,
                    momentum=settings.momentum,
                    weight_decay=settings.weight_decay,
                    ranks=ranks,
                )
            )
        self._rates = [settings.lr, settings.muon_lr]

    def step(self, factor: float) -> None:
        """One step at `factor` times the configured learning rates."""
        for part, rate in zip(self._parts, self._rates, strict=False):
            for group in part.param_groups:
                group["lr"] = rate * factor
            part.step()

    def zero_grad(self) -> None:
        for weight in self._names:
            weight.grad = None

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the state as "weight/field"."""
        tensors = {}
        for part in self._parts:
            for weight, fields in part.state.items():
                for field, value in fields.items():
                    tensors[f"{self._names[weight]}/{field}"] = torch.as_tensor(value)
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises Sky4Failure for a state of other weights."""
        owners = {
            self._names[weight]: (part, weight)
            for part in self._parts
            for group in part.param_groups
            for weight in group["params"]
        }
        for key, value in tensors.items():
            name, _, field = key.rpartition("/")
            if name not in owners:
                raise Sky4Failure(f"the checkpoint's optimizer knows the weight {name!r}, which this model lacks")
            part, weight = owners[name]
            # AdamW's step count stays where the fused kernel wants it; the rest lies beside its weight.
            part.state[weight][field] = value.to(weight.device).clone()


def schedule_factor(schedule: ScheduleSettings, samples: int, wall: float = 1.0) -> float:
    """The learning rate's factor after `samples` samples: rises linearly, stays, falls linearly to zero at the end.

    wall: the factor that a decay by the clock has come down to (1: there is none); the lower of the two holds.
    """
    warm = min(1.0, (samples + 1) / schedule.warmup) if schedule.warmup > 0 else 1.0
    fading = schedule.samples * schedule.decay
    cool = min(1.0, max(0.0, schedule.samples - samples) / fading) if fading > 0 else 1.0
    return warm * min(cool, wall)


@dataclass
class SpikeGuard:
    """Tells which steps not to take: a gradient that is not finite, or far above the median of the last ones."""

    limit: float
    norms: deque[float]

    @classmethod
    def fresh(cls, limit: float, norms: tuple[float, ...] = ()) -> SpikeGuard:
        return cls(limit, deque(norms, maxlen=HISTORY))

    def accepts(self, norm: float) -> bool:
        """Judges a step by its gradient norm and remembers the norm (a spike at the limit only)."""
        if not math.isfinite(norm):
            return False
        usual = median(self.norms) if len(self.norms) >= YOUNG else math.inf
        # A lasting rise is no spike: what is remembered lets the median follow.
        self.norms.append(min(norm, self.limit * usual))
        return norm <= self.limit * usual
