"""Runs that are killed: each life is a process of its own, ended by SIGKILL in the middle of a step."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sky4.pipeline import generate, refine


def killed_after(evaluations: int, patch: pytest.MonkeyPatch) -> None:
    """From now on this process dies inside the next velocity after so many of them."""
    deadly = _deadly_after(evaluations)
    made = generate.model_velocity
    patch.setattr(generate, "model_velocity", lambda *given: deadly(made(*given)))


def killed_refining_after(tiles: int, patch: pytest.MonkeyPatch) -> None:
    """From now on this process dies inside the next tile that it refines after so many of them."""
    patch.setattr(refine, "refiner_velocity", _deadly_after(tiles)(refine.refiner_velocity))


def _deadly_after(calls: int) -> Callable[[Any], Any]:
    left = [calls]

    def deadly(function: Any) -> Any:
        def call(*given: Any, **more: Any) -> Any:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return function(*given, **more)

        return call

    return deadly


def life(work: Callable[[], None]) -> int:
    """Do the work in a child process; returns the signal that ended it, 0 where it came to its end."""
    child = os.fork()
    if child == 0:
        try:
            # torch makes its pool anew after a fork, at its next use: here, before two threads ask for it at once
            torch.set_num_threads(torch.get_num_threads())
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, "the child failed by itself"
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
