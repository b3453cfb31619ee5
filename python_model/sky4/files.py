"""A file that is replaced whole: there in full, or as it was before. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def partial_name(path: Path) -> Path:
    """What a file is called until it is whole, beside where it will lie."""
    # the process id keeps two runs apart; the leading dot hides it from file managers
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, flushed and renamed to it when the block ends well, and removed otherwise."""
    partial = partial_name(path)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
