"""`--sample N`: N images at random, in their order, of a stream whose length is not known.

A reservoir (Li's algorithm L, "Reservoir-Sampling Algorithms of Time Complexity O(n(1+log(N/n)))",
1994): each image has the same chance. The seed is fixed, so the same list gives the same sample,
also with a key. It holds N images in memory and comes out when the stream has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from math import exp, floor, log
from random import Random
from typing import Final

from contract.errors import UsageError
from producer.submit.groups import GROUP_IMAGES, Group

SEED: Final = 0
MAX_SAMPLE: Final = 1_000_000
"""Some 270 bytes of memory each."""

_Kept = tuple[int, str, str | None, str | None]


def check_sample(images: int | None) -> None:
    """
    Raises:
        UsageError: so many are not taken.
    """
    if images is not None and not 1 <= images <= MAX_SAMPLE:
        raise UsageError(f"--sample is {images}; it is from 1 to {MAX_SAMPLE:,} images.")


def sampled(groups: Iterable[Group], images: int, seed: int = SEED) -> Iterator[Group]:
    """So many of them, or all where there are fewer."""
    kept = sorted(_reservoir(groups, images, Random(seed)))
    rows = iter(kept)
    while some := list(islice(rows, GROUP_IMAGES)):
        failed = {at: row[3] for at, row in enumerate(some) if row[3] is not None}
        yield Group([row[1] for row in some], [row[2] for row in some], failed)


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
    """Above 0, which has no logarithm."""
    return 1.0 - random.random()


def _row(group: Group, at: int, first: int) -> _Kept:
    return first + at, group.uris[at], group.refs[at], group.failed.get(at)
