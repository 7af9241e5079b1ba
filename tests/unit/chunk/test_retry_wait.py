"""The wait before the next attempt: it grows, is random, and has a limit."""

from __future__ import annotations

from random import seed
from statistics import mean

import pytest

from worker.chunk.retry_wait import retry_wait_s


def waits(attempt: int, *, mean_s: float = 5.0, longest_s: float = 3600.0) -> list[float]:
    seed(0)
    return [retry_wait_s(attempt, mean_s=mean_s, longest_s=longest_s) for _ in range(2000)]


@pytest.mark.parametrize(("attempt", "mean_s"), [(1, 5.0), (2, 10.0), (3, 20.0), (4, 40.0)])
def test_the_mean_doubles_with_each_attempt(attempt, mean_s) -> None:
    found = waits(attempt)
    assert mean(found) == pytest.approx(mean_s, rel=0.05)
    assert min(found) < 0.02 * mean_s  # full jitter begins at 0 ...
    assert max(found) > 1.95 * mean_s  # ... and ends at twice the mean
    assert max(found) <= 2.0 * mean_s


def test_no_wait_is_longer_than_the_longest() -> None:
    found = waits(20, longest_s=10.0)
    assert 9.9 < max(found) <= 10.0


@pytest.mark.parametrize("attempt", [1024, 1025, 1026, 100_000])
def test_an_attempt_beyond_a_floats_range_waits_for_at_most_the_longest(attempt) -> None:
    """2.0 ** 1024 is an OverflowError."""
    assert 9.9 < max(waits(attempt, longest_s=10.0)) <= 10.0


@pytest.mark.parametrize("attempt", [1, 1025])
def test_without_a_mean_nothing_waits(attempt) -> None:
    assert waits(attempt, mean_s=0.0) == [0.0] * 2000
