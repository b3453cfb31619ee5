"""Several processes that do one thing together: their number, what they agree on, and who speaks for all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from sky4.distributed.meeting import PATIENCE, meeting
from sky4.errors import RequestError, Sky4Failure


@dataclass(frozen=True)
class Ranks:
    """This process's number among all of them."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and says things."""
        return self.rank == 0

    def agree(self, value: float) -> float:
        """The first process's value: what depends on clocks and signals must be decided once."""
        if self.world == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64)
        with lost():
            dist.broadcast(told, 0)
        return float(told)

    def require_same(self, digest: bytes, what: str) -> None:
        """RequestError on all processes unless they have the same digest (at most 64 bytes) of what they work on."""
        if self.world == 1:
            return
        mine = torch.zeros(64, dtype=torch.uint8)
        mine[: len(digest)] = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
        all_of = torch.empty(self.world, 64, dtype=torch.uint8)
        with lost():
            dist.all_gather_into_tensor(all_of, mine)
        others = [rank for rank in range(self.world) if not torch.equal(all_of[rank], all_of[0])]
        if others:
            raise RequestError(
                f"process {others[0]} of {self.world} has another {what} than process 0; start all of them with the "
                "same words, files and packages"
            )

    def mesh(self, device: torch.device) -> DeviceMesh:
        """All processes in a row, on their devices of this kind."""
        return init_device_mesh(device.type, (self.world,), mesh_dim_names=("sequence",))


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that torchrun started, joined inside the `with` block; one alone where it did not.

    On a machine with GPUs each takes the one of its number.
    """
    met = meeting()
    if met is None:
        yield ALONE
        return
    on_gpus = torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", met.rank)) % torch.cuda.device_count())
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
        store=dist.PrefixStore("group", met.store),
        rank=met.rank,
        world_size=met.world,
        timeout=PATIENCE,
    )
    try:
        yield Ranks(met.rank, met.world)
        with lost():
            dist.barrier()  # without it, who ends first aborts the others
    finally:
        dist.destroy_process_group()


@contextmanager
def lost() -> Iterator[None]:
    """Around what processes exchange: Sky4Failure where one of them is gone."""
    try:
        yield
    except Sky4Failure:
        raise
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise Sky4Failure("another process of this run has ended, so this one ends too") from error
