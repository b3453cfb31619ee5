"""A transformer whose blocks' weights lie in equal shares on several processes (FSDP2), gathered a depth at a time.

While a depth computes, the next one is gathered. The results are those of the whole weights; the last bits of a product
may depend on where in memory its weights lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from sky4.distributed.ranks import lost
from sky4.distributed.sequence import Sharing
from sky4.model.blocks import Depths, PartT
from sky4.model.checkpoint import ModelT, check_fit, described
from sky4.model.refiner import refiner
from sky4.model.streaming import WeightStore, depth_owners, put, without_depths
from sky4.model.transformer import Branch, JointTransformer


def share_sequences(model: ModelT, sharing: Sharing) -> ModelT:
    """The same model; its towers share their tokens and heads with the other processes."""
    for tower in model.modules():
        if isinstance(tower, Branch):
            tower.sharing = sharing
    return model


def shard_transformer(
    folder: Path, device: torch.device, mesh: DeviceMesh, dtype: torch.dtype | None = None
) -> JointTransformer:
    """As `checkpoint.load_transformer`, but each process keeps its share of the blocks alone; all call it together.

    Raises Sky4Failure for a folder that is not readable, and its subclass WeightsError for missing, extra or misshaped
    weights.
    """
    return _sharded(described(JointTransformer, folder), mesh, WeightStore(folder, device, dtype))


def shard_refiner(folder: Path, device: torch.device, mesh: DeviceMesh, dtype: torch.dtype | None = None) -> Branch:
    """As `shard_transformer`, the refiner that `folder` holds."""
    return _sharded(described(refiner, folder), mesh, WeightStore(folder, device, dtype))


def _sharded(model: ModelT, mesh: DeviceMesh, store: WeightStore) -> ModelT:
    owners = depth_owners(model)
    check_fit(store.told, {name: w.shape for name, w in model.state_dict().items()}, store.shapes())
    put(model, store.read(without_depths(model, owners)))
    for place, owner in owners.items():
        name = place.rpartition(".")[2]
        parts = cast(Depths[nn.Module], getattr(owner, name))
        for index, part in enumerate(parts):
            fully_shard(part, mesh=mesh)
            _fill(part, f"{place}.{index}.", store)
        setattr(owner, name, ShardedDepths(parts))
    return model.eval()


def _fill(part: nn.Module, prefix: str, store: WeightStore) -> None:
    """This process's share of a part's weights, read one after the other, so that none but one is ever whole."""
    shares = {}
    for name, weight in part.named_parameters():
        assert isinstance(weight, DTensor)
        (whole,) = store.read([prefix + name]).values()
        # every process reads the file: nothing is sent
        share = distribute_tensor(whole, weight.device_mesh, weight.placements, src_data_rank=None)
        shares[name] = nn.Parameter(share, requires_grad=False)
    part.load_state_dict(shares, assign=True)


class ShardedDepths(Depths[PartT]):
    """Iterating gathers each part's weights before it is handed out, and lets them go when the next one is due."""

    def __init__(self, parts: Depths[PartT]) -> None:
        super().__init__(nn.ModuleList.__iter__(parts))

    def __iter__(self) -> Iterator[PartT]:  # type: ignore[override]
        parts = cast(list[FSDPModule], list(super().__iter__()))
        with lost():
            ahead = parts[0].unshard(async_op=True)
        for index, part in enumerate(parts):
            with lost():
                if ahead is not None:
                    ahead.wait()
                if index + 1 < len(parts):
                    ahead = parts[index + 1].unshard(async_op=True)
            try:
                yield cast(PartT, part)
            finally:
                part.reshard()
