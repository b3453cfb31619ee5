"""Several processes that torchrun starts for one command: which commands they can share, and which of them speaks."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sky4.distributed.meeting import meeting, several
from sky4.errors import RequestError

# One clip's work is shared by all; of a batch each process takes its own jobs.
SHARED = ("generate", "inpaint", "edit", "extend", "refine", "rerun", "batch", "train")


def check_together(words: Sequence[str]) -> None:
    """Let the processes meet, if there are several. RequestError for a command that they cannot share."""
    if meeting() is None:
        return
    command = next((word for word in words if not word.startswith("-")), "")
    if command not in SHARED:
        raise RequestError(
            f"`sky4 {command}` is the work of one process and torchrun starts {several()}; they can share "
            f"{', '.join(SHARED)}"
        )


@contextmanager
def one_of_all_speaks() -> Iterator[bool]:
    """Around what is said of a fault: whether this process says it. What one has noticed ends all of them."""
    met = meeting()
    speaks = met is None or met.speaks()
    try:
        yield speaks
    finally:
        sys.stderr.flush()
        if met is not None and speaks:
            met.has_spoken()
