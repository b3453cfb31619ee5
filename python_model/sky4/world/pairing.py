"""What is seen against what is heard: events are matched one to one, in order, and their offsets told."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WIDEST = 0.5  # seconds: events further apart are not one event
EDGE = 0.15  # seconds before the clip's end in which an event cannot be measured: it need not have a partner


@dataclass(frozen=True)
class Pairing:
    """Offsets are t_audio - t_visual in seconds, one for each matched pair, in order of time."""

    offsets: tuple[float, ...]
    missing: int  # seen and not heard
    extra: int  # heard and not seen

    @property
    def offset(self) -> float:
        """Median |offset| of the clip. Without any match it counts as the widest there is (0.5 s), not as nothing."""
        return float(np.median(np.abs(self.offsets))) if self.offsets else WIDEST

    def agreement(self, within: float) -> tuple[float, float]:
        """(events that agree within so many seconds, all events), counted on both sides: their ratio is an F1."""
        close = sum(abs(offset) <= within for offset in self.offsets)
        return 2.0 * close, 2.0 * len(self.offsets) + self.missing + self.extra


def pair_events(seen: Sequence[float], heard: Sequence[float], seconds: float) -> Pairing:
    """Matches two sorted lists of times so that the sum of |offset|, plus WIDEST / 2 for each left over, is least."""
    rows, columns = len(seen), len(heard)
    cost = np.zeros((rows + 1, columns + 1))
    cost[1:, 0] = WIDEST / 2 * np.arange(1, rows + 1)
    cost[0, 1:] = WIDEST / 2 * np.arange(1, columns + 1)
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            alone = min(cost[i - 1, j], cost[i, j - 1]) + WIDEST / 2
            cost[i, j] = min(alone, cost[i - 1, j - 1] + abs(heard[j - 1] - seen[i - 1]))
    offsets: list[float] = []
    missing, extra, i, j = 0, 0, rows, columns
    while i or j:
        if i and j and np.isclose(cost[i, j], cost[i - 1, j - 1] + abs(heard[j - 1] - seen[i - 1]), atol=1e-12):
            offsets.append(heard[j - 1] - seen[i - 1])
            i, j = i - 1, j - 1
        elif i and (j == 0 or cost[i - 1, j] <= cost[i, j - 1]):
            i -= 1
            missing += seen[i] < seconds - EDGE
        else:
            j -= 1
            extra += heard[j] < seconds - EDGE
    return Pairing(tuple(reversed(offsets)), missing, extra)
