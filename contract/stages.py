"""How long a job's images took at each stage: tallies hold these times, and a job their sum.

Each stage has a list of numbers: images, milliseconds in total, and then images in each bucket of
`EDGES_MS`; the last bucket is above all edges. Lists are added place by place, so dispatchers
need not know which stages workers measure.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

EDGES_MS: Final = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000)
"""The largest value that each bucket takes."""
_HEAD: Final = 2  # numbers before the buckets

Stages = dict[str, list[float]]


def stages_of(ordered: Mapping[str, Sequence[float]]) -> Stages:
    """Sums up seconds, in ascending order by stage. Leaves out a stage that no image reached."""
    found: Stages = {}
    for stage, seconds in ordered.items():
        if seconds:
            up_to = [0, *(bisect_right(seconds, edge / 1000) for edge in EDGES_MS), len(seconds)]
            within = [upper - lower for lower, upper in pairwise(up_to)]
            found[stage] = [len(seconds), round(1000 * sum(seconds), 3), *within]
    return found


def add_stages(total: Stages, more: Mapping[str, Sequence[float]] | None) -> None:
    """Adds `more` to `total`."""
    for stage, numbers in (more or {}).items():
        if stage in total:
            pairs = zip(total[stage], numbers, strict=False)
            total[stage] = [round(one + other, 3) for one, other in pairs]
        else:
            total[stage] = list(numbers)


def mean_ms(numbers: Sequence[float]) -> float:
    return numbers[1] / numbers[0] if numbers[0] else 0.0


def within_ms(numbers: Sequence[float], share: float) -> int | None:
    """The first edge within which this share of the images finished; None if they took longer."""
    wanted, seen = share * numbers[0], 0.0
    for edge, images in zip(EDGES_MS, numbers[_HEAD:], strict=False):
        seen += images
        if seen >= wanted:
            return edge
    return None
