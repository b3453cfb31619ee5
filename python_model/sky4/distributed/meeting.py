"""Where the processes of one run meet: a small store of values that torchrun, or the first of them, keeps.

`torchrun --nproc-per-node 2 -m sky4cli generate ...` starts them, with their number in RANK and WORLD_SIZE. torch is
imported only where there are several.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sky4.errors import Sky4Failure

NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# The first process decodes and writes while the others wait. One that dies is noticed by torchrun, not by the clock.
PATIENCE = timedelta(days=1)
COMING = timedelta(minutes=5)  # what the processes may take to start
FAULT = "!"  # in place of a text, which is told behind a "="
SPEAKING = timedelta(seconds=10)  # what a fault may take from its notice to its words


@dataclass(frozen=True)
class Meeting:
    """This process's number, how many there are, and the store that all of them see."""

    rank: int
    world: int
    store: Any

    def told(self, name: str, make: Callable[[], str]) -> str:
        """The first process's text, which it alone makes: what a pipe gives can be read once."""
        if self.rank == 0:
            try:
                text = make()
            except Exception:
                self.store.set(f"told {name}", FAULT)
                raise
            self.store.set(f"told {name}", f"={text}")
            return text
        text = bytes(self.store.get(f"told {name}")).decode()
        if text == FAULT:
            self.listen()
            raise Sky4Failure("the first process has failed, so this one ends too")
        return text.removeprefix("=")

    def speaks(self) -> bool:
        """Whether this process says what went wrong: the first that asks does; another waits until that is said, since
        torchrun ends all when one has ended."""
        with suppress(RuntimeError):  # who kept the store has left
            if self.store.add("faults", 1) == 1:
                return True
        self.listen()
        return False

    def listen(self) -> None:
        """Wait until another process has said what went wrong, or for as long as one that lives would take."""
        with suppress(RuntimeError):
            self.store.wait(["said"], SPEAKING)

    def has_spoken(self) -> None:
        with suppress(RuntimeError):
            self.store.set("said", "yes")


_met: list[Meeting] = []


def several() -> int:
    """How many processes torchrun started for this run; 1 where it did not."""
    if not set(NAMES) <= set(os.environ):
        return 1
    world = os.environ["WORLD_SIZE"]
    return int(world) if world.isdecimal() else 1


def is_first() -> bool:
    """Whether this process writes files and says things: it is alone, or the first of several."""
    return several() == 1 or os.environ["RANK"] == "0"


def local_number() -> int:
    """Of the several processes on this machine, which this is: it takes the GPU of that number. 0 of one alone."""
    return int(os.environ.get("LOCAL_RANK", os.environ["RANK"])) if several() > 1 else 0


def meeting() -> Meeting | None:
    """This run's meeting, joined when it is first asked for; None of a single process."""
    if not _met and several() > 1:
        from torch.distributed.rendezvous import rendezvous

        try:
            store, rank, world = next(rendezvous("env://", timeout=COMING))
        except (ValueError, RuntimeError) as error:
            where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise Sky4Failure(f"the processes of this run did not meet at {where}: {error}") from error
        store.set_timeout(PATIENCE)
        _met.append(Meeting(rank, world, store))
    return _met[0] if _met else None
