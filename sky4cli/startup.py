"""What lets a command of a few seconds start and end quickly: loading torch and the libraries is most of its time."""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
from typing import NoReturn

# Objects made between two looks for garbage. Python's own number is for small programs: loading the libraries makes
# millions, and looking through them again and again takes a quarter of that time.
GARBAGE_THRESHOLD = 200_000


def collect_garbage_rarely() -> None:
    gc.set_threshold(GARBAGE_THRESHOLD)


def print_any_name() -> None:
    """Names of files that are no UTF-8 are printed as the bytes that they are, not refused."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


def load_libraries() -> None:
    """Import diffusers and transformers without scipy and torchao, which they look for and never need here: most of a
    second each, and torchao has much to say.

    For this process they then believe it is not installed; what is ours, and imports it by itself, still gets it.
    """
    hidden = [name for name in ("scipy", "torchao") if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # how Python says: cannot be imported
    try:
        import diffusers.utils
        import transformers.utils

        diffusers.utils.is_scipy_available()
        transformers.utils.is_scipy_available()  # remembers its first answer
        diffusers.utils.is_torchao_available()
        transformers.utils.is_torchao_available()
    finally:
        for name in hidden:
            del sys.modules[name]


def leave(code: int) -> NoReturn:
    """End the process without taking apart, one by one, the objects of some thousand modules: a second."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
