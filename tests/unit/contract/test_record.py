"""Scores are shown with the fewest digits that convert back to the same float32."""

from __future__ import annotations

import struct
from math import inf, nan

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contract.record import _shortest_by_text, shortest, shortest_of


def float32(value: float) -> bytes:
    return struct.pack("f", value)


@given(st.floats(0, 1, width=32))
@example(0.0)
@example(1.0)
@example(2.0**-24)
@example(2.0**-27)
@example(2.0**-40)
@example(2.0**-41)
@example(1e-45)
def test_a_score_has_no_more_digits_than_the_shortest_text_for_it(score: float) -> None:
    found = shortest(score)
    assert float32(found) == float32(score)
    assert len(repr(found)) <= len(repr(_shortest_by_text(score)))


@pytest.mark.parametrize(
    ("stored", "shown"),
    [(0.1, 0.1), (0.7, 0.7), (1e-9, 1e-9), (0.99999994, 0.99999994), (1 / 3, 0.33333334)],
)
def test_a_score_is_shown_as_people_write_it(stored: float, shown: float) -> None:
    assert shortest(struct.unpack("f", float32(stored))[0]) == shown


def test_many_scores_at_once_give_the_same_as_one_by_one() -> None:
    scores = [struct.unpack("f", float32(n / 997))[0] for n in range(998)]
    assert shortest_of(scores) == [shortest(score) for score in scores]
    assert shortest_of([]) == []


def test_infinity_and_nan_come_back_unchanged() -> None:
    assert shortest(inf) == inf
    assert repr(shortest(nan)) == "nan"
