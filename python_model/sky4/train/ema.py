"""The moving average of the weights: what is sampled from and exported."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MovingAverage:
    """shadow += (1 - d)(weight - shadow), d = min(decay, (1 + s)/(10 + s)) at step s: a young average forgets fast."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._weights = dict(model.named_parameters())
        self.shadow = {name: weight.detach().clone().float() for name, weight in self._weights.items()}
        self._decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimizer step number `step`, counted from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.shadow.values()), [w.detach() for w in self._weights.values()], 1.0 - decay)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over a saved average; its names are the model's."""
        assert tensors.keys() == self.shadow.keys(), "an average of another model"
        for name, value in tensors.items():
            self.shadow[name].copy_(value)
