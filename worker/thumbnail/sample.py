"""Decides which images are in a job's sample. It uses a hash, so all workers decide the same."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import numpy as np

_NUMBERS: Final = 2**64
# splitmix64, by Steele, Lea and Flood, as in Vigna's public domain code.
_STEP: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST: Final = (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9))
_SECOND: Final = (np.uint64(27), np.uint64(0x94D049BB133111EB))
_LAST_SHIFT: Final = np.uint64(31)


def sample(
    job_number: int, positions: Collection[int], *, total: int, wanted: int
) -> frozenset[int]:
    """Returns the positions that are in the job's sample; in a small job, all of them.

    An image is in the sample if `splitmix64(job + position) · total < wanted · 2^64`. The sample
    then has about `wanted` images.

    Args:
        job_number: the job's number.
        positions: positions of the job's images, each below 2^63.
        total: the number of images in the job.
        wanted: the number of images in the sample.
    """
    if wanted <= 0:
        return frozenset()
    if total <= wanted:
        return frozenset(positions)
    limit = np.uint64(-(-wanted * _NUMBERS // total))  # rounded up, as the hash is an integer
    places = np.fromiter(positions, np.uint64, len(positions))
    job = splitmix64(np.array([job_number], np.uint64))
    return frozenset(places[splitmix64(job + places) < limit].tolist())


def splitmix64(numbers: np.ndarray) -> np.ndarray:
    """(N,) uint64 → (N,) uint64, a hash. The arithmetic is modulo 2^64."""
    mixed = numbers + _STEP
    for shift, factor in (_FIRST, _SECOND):
        mixed = (mixed ^ (mixed >> shift)) * factor
    return mixed ^ (mixed >> _LAST_SHIFT)
