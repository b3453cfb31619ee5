"""Several processes that train one model: each works off some parts of every batch, and the gradients are summed.

`torchrun --nproc-per-node 2 -m sky4cli train joint CONFIG` starts them. All draw the same batches and take the same
steps, so the run is the one that a single process makes with the same `batch.parts`, but for the order of sums.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

PartT = TypeVar("PartT")


@dataclass(frozen=True)
class Ranks:
    """This process's number among all of them."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and says things."""
        return self.rank == 0

    def mine(self, parts: Sequence[PartT]) -> Sequence[PartT]:
        """This process's share of a batch's parts. Raises ValueError where they cannot be shared out evenly."""
        if len(parts) % self.world:
            raise ValueError(
                f"batch.parts is {len(parts)}, which {self.world} processes cannot share; make it a multiple of them"
            )
        return parts[self.rank :: self.world]

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes its sum over all processes, in one exchange."""
        if self.world == 1 or not tensors:
            return
        whole = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(whole)
        for tensor, part in zip(tensors, whole.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def agree(self, value: float) -> float:
        """The first process's value: what depends on clocks and signals must be decided once."""
        if self.world == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(told, 0)
        return float(told)


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that torchrun started, joined inside the `with` block; one alone where it did not."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield ALONE
        return
    dist.init_process_group("gloo")
    try:
        yield Ranks(dist.get_rank(), world)
        dist.barrier()  # without it, who ends first aborts the others
    finally:
        dist.destroy_process_group()
