"""A server's outage is logged once at its start and once at its end."""

from __future__ import annotations

import logging

import pytest

from producer.dispatcher.loop import FIRST_WAIT_S, LONGEST_WAIT_S, Outage


def fail() -> None:
    raise ConnectionRefusedError("nobody\nthere")


@pytest.fixture
def outage(caplog) -> Outage:
    caplog.set_level(logging.INFO)
    return Outage("Redis", (OSError,))


def test_an_outage_and_its_end_are_each_logged_once(outage: Outage, caplog) -> None:
    assert [outage.holds(fail) for _ in range(3)] == [False] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "Redis does not answer; retrying: nobody"
    ]
    caplog.clear()
    assert [outage.holds(str) for _ in range(3)] == [True] * 3
    (record,) = caplog.records
    assert record.getMessage().startswith("Redis is back after")


def test_waits_between_tries_grow_and_start_over_after_a_success(outage: Outage) -> None:
    waits_s = []
    for _ in range(8):
        outage.holds(fail)
        waits_s.append(outage.wait_s)
    assert waits_s[:3] == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S]
    assert waits_s[-1] == LONGEST_WAIT_S
    outage.holds(str)
    assert outage.wait_s == 0
    outage.holds(fail)
    assert outage.wait_s == FIRST_WAIT_S


def test_an_error_in_our_own_code_is_no_outage(outage: Outage) -> None:
    with pytest.raises(ZeroDivisionError):
        outage.holds(lambda: 1 / 0)
