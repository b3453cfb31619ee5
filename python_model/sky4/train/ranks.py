"""Several processes that train one model: each works off some parts of every batch, and the gradients are summed.

`torchrun --nproc-per-node 2 -m sky4cli train joint CONFIG` starts them. All draw the same batches and take the same
steps, so the run is the one that a single process makes with the same `batch.parts`, but for the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sky4.distributed.ranks import Ranks, lost

PartT = TypeVar("PartT")


def share_of(ranks: Ranks, parts: Sequence[PartT]) -> Sequence[PartT]:
    """This process's share of a batch's parts. Raises ValueError where they cannot be shared out evenly."""
    if len(parts) % ranks.world:
        raise ValueError(
            f"batch.parts is {len(parts)}, which {ranks.world} processes cannot share; make it a multiple of them"
        )
    return parts[ranks.rank :: ranks.world]


def each_its_rows(ranks: Ranks, rows: Tensor, work: Callable[[Tensor], Tensor]) -> Tensor:
    """`work` of rows [K, ...], which keeps their shape, each process having worked on its share of them alone."""
    if ranks.world == 1:
        return work(rows)
    share = -(-len(rows) // ranks.world)
    mine = rows.new_zeros(share, *rows.shape[1:])
    own = rows[ranks.rank * share : (ranks.rank + 1) * share]
    mine[: len(own)] = work(own) if len(own) else own
    whole = rows.new_empty(ranks.world * share, *rows.shape[1:])
    with lost():
        dist.all_gather_into_tensor(whole, mine)
    return whole[: len(rows)]


def add_up(ranks: Ranks, tensors: Sequence[Tensor]) -> None:
    """Each tensor becomes its sum over all processes, in one exchange."""
    if ranks.world == 1 or not tensors:
        return
    whole = torch.cat([tensor.flatten() for tensor in tensors])
    with lost():
        dist.all_reduce(whole)
    for tensor, part in zip(tensors, whole.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
