"""Several processes of one run, forked from the test's own, so that torch and the models are there already."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Life:
    """How a process ended, and what it said."""

    code: int
    out: str
    err: str


def together(folder: Path, processes: int, work: Callable[[int], int | None], given: str = "") -> list[Life]:
    """Let `work(rank)` run in so many processes that can meet; it returns an exit code, or None for 0.

    folder: for what they say. given: on the stdin that they all have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "given").write_text(given, "utf-8")
    reading = os.open(folder / "given", os.O_RDONLY)  # as with a pipe, what one process reads is gone for the others
    children = []
    for rank in range(processes):
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            os.environ |= {
                "RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            _child(folder, rank, work, reading)
        children.append(child)
    os.close(reading)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    said = [[(folder / f"{name}{rank}").read_text("utf-8") for name in ("out", "err")] for rank in range(processes)]
    return [Life(code, *words) for code, words in zip(codes, said, strict=True)]


def _child(folder: Path, rank: int, work: Callable[[int], int | None], stdin: int) -> None:
    code: int | None = 1
    try:
        os.dup2(stdin, 0)
        sys.stdin = os.fdopen(0, closefd=False)
        for number, name in ((1, "out"), (2, "err")):
            file = os.open(folder / f"{name}{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        # torch makes its pool anew after a fork, at its next use: here, before two threads ask for it at once
        torch.set_num_threads(torch.get_num_threads())
        code = work(rank)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
