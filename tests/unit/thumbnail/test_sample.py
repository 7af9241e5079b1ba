"""Which images are in a job's sample: by arithmetic alone, so all workers agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.thumbnail.sample import sample, splitmix64

STEP = 0x9E3779B97F4A7C15


def hash_of(number: int) -> int:
    """Computes the hash with Python's own integers."""
    mixed = (number + STEP) % 2**64
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
    return mixed ^ (mixed >> 31)


def test_the_hash_is_splitmix64() -> None:
    """Checks the first numbers for the seed 1234567, as published."""
    seeds = [(1234567 + n * STEP) % 2**64 for n in range(3)]
    found = splitmix64(np.array(seeds, np.uint64)).tolist()
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(
    job=st.integers(1, 2**63 - 1),
    first=st.integers(0, 2**40),
    total=st.integers(1, 2**40),
    wanted=st.integers(0, 100_000),
)
def test_an_image_is_in_the_sample_if_its_hash_is_small_enough(
    job: int, first: int, total: int, wanted: int
) -> None:
    positions = range(first, first + 64)
    chosen = {
        position
        for position in positions
        if hash_of((hash_of(job) + position) % 2**64) * total < wanted * 2**64
    }
    assert sample(job, positions, total=total, wanted=wanted) == chosen


@pytest.mark.parametrize("total", [2_000, 100_000, 1_000_000])
def test_a_sample_has_about_as_many_images_as_wanted(total: int) -> None:
    """This holds however the job is cut into chunks."""
    chunks = [range(first, first + 250) for first in range(0, total, 250)]
    chosen = [sample(7, chunk, total=total, wanted=500) for chunk in chunks]
    assert 400 < sum(map(len, chosen)) < 600
    assert frozenset().union(*chosen) == sample(7, range(total), total=total, wanted=500)
    assert chosen[0] != sample(8, chunks[0], total=total, wanted=500)


def test_a_small_job_is_its_own_sample() -> None:
    assert sample(1, range(500), total=500, wanted=500) == frozenset(range(500))
    assert sample(1, range(500), total=500, wanted=0) == frozenset()
