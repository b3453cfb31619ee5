"""Several processes that do one thing together: their number, what they agree on, and who speaks for all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from sky4.distributed.meeting import PATIENCE, local_number, meeting
from sky4.errors import RequestError, Sky4Failure

GONE = ("onnection", "roken pipe", "ocket")  # in what gloo says of a process that it does not reach any more
MadeT = TypeVar("MadeT")


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
        gathered = torch.empty(self.world * 64, dtype=torch.uint8)
        with lost():
            dist.all_gather_into_tensor(gathered, mine)
        theirs = gathered.split(64)
        others = [rank for rank in range(self.world) if not torch.equal(theirs[rank], theirs[0])]
        if others:
            raise RequestError(
                f"process {others[0]} of {self.world} has another {what} than process 0; start all of them with the "
                "same words, files and packages"
            )

    def in_step(self, made: Iterator[MadeT]) -> Iterator[MadeT]:
        """Each of what all processes make alike, when all have made it: one may then change what they read for it."""
        for one in made:
            self.wait()
            yield one

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            with lost():
                dist.all_reduce(torch.zeros(1))  # of the CPU: a barrier of GPUs wants one for each process

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
        torch.cuda.set_device(local_number() % torch.cuda.device_count())
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
        store=met.store,
        rank=met.rank,
        world_size=met.world,
        timeout=PATIENCE,
    )
    try:
        ranks = Ranks(met.rank, met.world)
        yield ranks
        ranks.wait()  # without it, who ends first aborts the others
    finally:
        dist.destroy_process_group()


@contextmanager
def lost() -> Iterator[None]:
    """Around what processes exchange: Sky4Failure where one of them is gone, when that one has said why."""
    try:
        yield
    except RuntimeError as error:  # gloo has no class of its own for it
        if not isinstance(error, dist.DistError) and not any(words in str(error) for words in GONE):
            raise
        met = meeting()
        if met is not None:
            met.listen()
        raise Sky4Failure("another process of this run has ended, so this one ends too") from error
