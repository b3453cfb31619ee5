"""How candidates are timed, on a clock that the test owns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sky4.bench.timing import HostStopwatch, Timing, interleave, percentile


class Clock:
    """Seconds that pass only where a candidate says so."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.seconds

    def lasting(self, name: str, *seconds: float) -> Callable[[], None]:
        """A candidate whose calls last so long one after the other, the last value for good."""
        left = list(seconds)

        def call() -> None:
            self.seconds += left[0] if len(left) == 1 else left.pop(0)
            self.order.append(name)

        return call


def test_percentiles_are_linear_between_samples() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0, 5.0], 0.1) == pytest.approx(1.4)
    assert percentile([1.0, 2.0, 3.0, 4.0, 5.0], 0.9) == pytest.approx(4.6)
    assert percentile([7.0], 0.9) == 7.0


def test_a_timing_is_of_the_sorted_samples() -> None:
    assert Timing.of([3.0, 1.0, 2.0], warmup=1) == Timing(1, 3, 2.0, pytest.approx(1.2), pytest.approx(2.8))


def test_candidates_run_in_turns_and_the_order_turns_too() -> None:
    clock = Clock()
    interleave({name: clock.lasting(name, 1.0) for name in "abc"}, HostStopwatch(clock), seconds=100, max_rounds=3)
    assert "".join(clock.order) == "aabbcc" + "abc" + "bca" + "cab"  # warm-ups, then the rounds


def test_ratios_are_taken_within_the_rounds() -> None:
    """Both slow down together: the medians would say 1.5, each round says 2."""
    clock = Clock()
    ours, theirs = clock.lasting("ours", 1, 1, 1, 10, 100), clock.lasting("theirs", 2, 2, 2, 20, 200)
    measured = interleave({"ours": ours, "theirs": theirs}, HostStopwatch(clock), seconds=1000, max_rounds=3)
    assert measured.samples == {"ours": [1, 10, 100], "theirs": [2, 20, 200]}
    assert measured.ratio("theirs", "ours") == 2.0


def test_rounds_end_with_the_time() -> None:
    clock = Clock()
    measured = interleave({"a": clock.lasting("a", 1.0)}, HostStopwatch(clock), seconds=10, max_rounds=50)
    assert measured.timing("a").n == 10  # the last one begins before ten seconds are over


def test_the_slowest_opponent_is_dropped_with_its_reason_before_ours() -> None:
    clock = Clock()
    candidates = {"ours": clock.lasting("ours", 3.0), "quick": clock.lasting("quick", 1.0)}
    candidates["slow"] = clock.lasting("slow", 20.0)
    measured = interleave(candidates, HostStopwatch(clock), seconds=40, keep="ours")
    assert set(measured.samples) == {"ours", "quick"}
    assert "a call takes 20 s" in measured.dropped["slow"]
    assert "--budget" in measured.dropped["slow"]


def test_ours_is_kept_where_opponents_first_calls_took_its_time() -> None:
    clock = Clock()
    candidates = {"ours": clock.lasting("ours", 5.0), "slow": clock.lasting("slow", 30.0)}
    measured = interleave(candidates, HostStopwatch(clock), seconds=30, keep="ours")
    assert measured.timing("ours").n == 3


def test_what_cannot_be_measured_in_time_at_all_is_dropped() -> None:
    clock = Clock()
    measured = interleave({"ours": clock.lasting("ours", 50.0)}, HostStopwatch(clock), seconds=30, keep="ours")
    assert not measured.samples
    assert "a call takes 50 s, too long for 3 rounds in the 30 s" in measured.dropped["ours"]


def test_a_candidate_that_raises_is_dropped_with_what_it_said() -> None:
    clock = Clock()

    def broken() -> None:
        raise RuntimeError("no kernel here\nand a long story")

    measured = interleave({"a": clock.lasting("a", 1.0), "b": broken}, HostStopwatch(clock), seconds=10)
    assert measured.dropped == {"b": "no kernel here"}


def test_quick_calls_are_sampled_many_at_a_time() -> None:
    clock = Clock()
    measured = interleave({"a": clock.lasting("a", 1e-6)}, HostStopwatch(clock), seconds=10, max_rounds=3)
    assert clock.order == ["a"] * (2 + 3 * 200)
    assert measured.timing("a").median == pytest.approx(1e-6)
