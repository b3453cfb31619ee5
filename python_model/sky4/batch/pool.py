"""Where orders are carried out: here, one after the other; `ray_pool` has the same three verbs for many machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from sky4.batch.work import Order, Outcome, Worker

if TYPE_CHECKING:
    from sky4.pipeline.clip import Progress


class Pool(Protocol):
    """Takes orders while `free`, and hands back what became of them. lost: workers that have died so far."""

    lost: int

    @property
    def free(self) -> bool:
        """Whether another order would be begun at once."""
        ...

    def submit(self, name: str, order: Order) -> None: ...

    def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
        """What has become of orders: at least one, or after so many seconds none."""
        ...

    def close(self) -> None: ...


class LocalPool:
    """One worker in this process. prepare: called before its first order, when there is one at all."""

    def __init__(self, progress: Progress, prepare: Callable[[], None]) -> None:
        self._progress, self._prepare = progress, prepare
        self.lost = 0
        self._worker: Worker | None = None
        self._order: tuple[str, Order] | None = None

    @property
    def free(self) -> bool:
        return self._order is None

    def submit(self, name: str, order: Order) -> None:
        assert self._order is None
        self._order = name, order

    def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
        """The order that was given, made now, however long it takes."""
        if self._order is None:
            return []
        if self._worker is None:
            self._prepare()
            self._worker = Worker()
        name, order = self._order
        outcome = self._worker.make(order, self._progress)
        self._order = None
        return [(name, outcome)]

    def close(self) -> None:
        self._worker = None
