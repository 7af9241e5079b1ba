"""How a metric is declared, and the values that a process keeps for it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

# From decoding a small picture to a fetch that hangs and a chunk that waits for free workers.
EDGES_S: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 300.0,
)  # fmt: skip

Values = Mapping[tuple[str, ...], float]
"""Values of a counter or a gauge, by the values of its labels."""


@dataclass(frozen=True)
class Metric:
    """What Prometheus learns about one metric, except its values."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    edges: tuple[float, ...] = EDGES_S
    """For a histogram: the largest value in each bucket."""


@dataclass
class Histogram:
    """A cumulative histogram, as Prometheus expects."""

    edges: tuple[float, ...]
    counts: list[int] = field(init=False)
    """How many values were at most each edge."""
    count: int = 0
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * len(self.edges)

    def add(self, ordered: Sequence[float]) -> None:
        """Adds values in ascending order: one search per bucket, whatever their number."""
        for n, edge in enumerate(self.edges):
            self.counts[n] += bisect_right(ordered, edge)
        self.count += len(ordered)
        self.sum += sum(ordered)

    def copy(self) -> Histogram:
        copied = Histogram(self.edges, count=self.count, sum=self.sum)
        copied.counts = self.counts.copy()
        return copied


def by_name(*metrics: Metric) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}
