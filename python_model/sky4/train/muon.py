"""Muon (Jordan 2024): the momentum of a matrix, orthogonalised, so that every direction of it learns alike.

torch's own iterates in bfloat16, which a CPU without bfloat16 products computes at a hundredth of its float32 speed:
there it took 70 % of a training step. This one iterates in the precision that the device multiplies, matrices of one
shape together; the update is otherwise torch's.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

from sky4.distributed.ranks import ALONE, Ranks
from sky4.train.precision import multiplies_bfloat16
from sky4.train.ranks import each_its_rows

COEFFICIENTS = (3.4445, -4.775, 2.0315)  # of the quintic whose slope at zero is steepest
ITERATIONS = 5
TINY = 1e-7


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; decoupled weight decay. All weights are matrices [M, N].

    Several processes with the same gradients share the iterations: they cost the same however small the batch is.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._ranks = ranks

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step at each group's rate; weights without a gradient stay as they are."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                momentum = state["momentum_buffer"].lerp_(weight.grad, 1 - group["momentum"])
                alike[weight.shape].append((weight, weight.grad.lerp(momentum, group["momentum"])))
            for shape, pairs in alike.items():
                rate = group["lr"] * math.sqrt(max(1.0, shape[0] / shape[1]))
                updates = torch.stack([update for _, update in pairs])
                made = each_its_rows(self._ranks, updates, lambda some: orthogonalised(some).to(some))
                for (weight, _), update in zip(pairs, made, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.to(weight), alpha=-rate)


def orthogonalised(matrices: Tensor) -> Tensor:
    """The matrices [K, M, N] with all singular values brought near 1 (Newton-Schulz): between 0.7 and 1.2 or so."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16() if multiplies_bfloat16(matrices.device) else matrices.float()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=TINY)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
