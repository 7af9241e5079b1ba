"""`--sample N`: N random images of a stream of unknown length, in their order.

It uses a reservoir (Li's algorithm L, "Reservoir-Sampling Algorithms of Time Complexity
O(n(1+log(N/n)))", 1994): each image has the same chance. The seed is fixed, so the same list gives
the same sample, and a key works with it. N images are held in memory until the stream ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from math import exp, floor, log
from operator import itemgetter
from random import Random
from typing import Final

from contract.errors import UsageError
from contract.failure import Failure
from producer.submit.groups import GROUP_IMAGES, Group
from producer.submit.sources.entry import Values

SEED: Final = 0
MAX_SAMPLE: Final = 1_000_000
"""Each takes some 270 bytes of memory."""

_Kept = tuple[int, str, str | None, Failure | None, Values | None]


def check_sample(images: int | None) -> None:
    """Checks the size of a sample.

    Raises:
        UsageError: the size is out of range.
    """
    if images is not None and not 1 <= images <= MAX_SAMPLE:
        raise UsageError(f"--sample must be from 1 to {MAX_SAMPLE:,} images, got {images}.")


def sampled(groups: Iterable[Group], images: int, seed: int = SEED) -> Iterator[Group]:
    """A sample of this many images, or all if there are fewer."""
    kept = sorted(_reservoir(groups, images, Random(seed)), key=itemgetter(0))
    rows = iter(kept)
    while some := list(islice(rows, GROUP_IMAGES)):
        failed = {at: row[3] for at, row in enumerate(some) if row[3] is not None}
        uris, refs = [row[1] for row in some], [row[2] for row in some]
        yield Group(uris, refs, failed, [row[4] for row in some])


def _reservoir(groups: Iterable[Group], images: int, random: Random) -> list[_Kept]:
    kept: list[_Kept] = []
    weight, following, first = 1.0, images - 1, 0
    for group in groups:
        size = len(group.uris)
        filled = max(0, min(images - len(kept), size))
        kept.extend(_row(group, at, first) for at in range(filled))
        while following < first + size:
            if following >= images:
                kept[random.randrange(images)] = _row(group, following - first, first)
            weight *= exp(log(_uniform(random)) / images)
            following += floor(log(_uniform(random)) / log(1 - weight)) + 1
        first += size
    return kept


def _uniform(random: Random) -> float:
    """A random number in (0, 1]: 0 has no logarithm."""
    return 1.0 - random.random()


def _row(group: Group, at: int, first: int) -> _Kept:
    return first + at, group.uris[at], group.refs[at], group.failed.get(at), group.values_at(at)
