"""Where the processes of one run meet: a small store of values that torchrun, or the first of them, keeps.

`torchrun --nproc-per-node 2 -m sky4cli generate ...` starts them, with their number in RANK and WORLD_SIZE. torch is
imported only where there are several.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# The first process decodes and writes while the others wait. One that dies is noticed by torchrun, not by the clock.
PATIENCE = timedelta(days=1)
SPEAKING = timedelta(seconds=20)  # what a fault's own words may take until they are said


@dataclass(frozen=True)
class Meeting:
    """This process's number, how many there are, and the store that all of them see."""

    rank: int
    world: int
    store: Any

    def told(self, name: str, make: Callable[[], str]) -> str:
        """The first process's text, which it alone makes: what a pipe gives can be read once."""
        if self.rank == 0:
            text = make()
            self.store.set(f"told {name}", text)
            return text
        return bytes(self.store.get(f"told {name}")).decode()

    def speaks(self) -> bool:
        """Whether this process says what went wrong: the first that asks does; another waits until that is said, since
        torchrun ends all when one has ended."""
        try:
            if self.store.add("faults", 1) == 1:
                return True
            self.store.wait(["said"], SPEAKING)
        except RuntimeError:  # who kept the store has left
            pass
        return False

    def has_spoken(self) -> None:
        try:
            self.store.set("said", "yes")
        except RuntimeError:
            pass


_met: list[Meeting] = []


def several() -> int:
    """How many processes torchrun started for this run; 1 where it did not."""
    if not set(NAMES) <= set(os.environ):
        return 1
    world = os.environ["WORLD_SIZE"]
    return int(world) if world.isdecimal() else 1


def meeting() -> Meeting | None:
    """This run's meeting, joined when it is first asked for; None of a single process."""
    if not _met and several() > 1:
        from torch.distributed.rendezvous import rendezvous

        store, rank, world = next(rendezvous("env://", timeout=PATIENCE))
        _met.append(Meeting(rank, world, store))
    return _met[0] if _met else None
