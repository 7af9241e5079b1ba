"""Runs enter a worker together; a run that must be alone enters it alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from worker.chunk.gate import Gate

WITHIN_S = 300.0
# A thread that is not inside after this time counts as waiting.
STILL_S = 0.1

Enter = Callable[[Callable[[], None]], Future[None]]


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def enter(gate: Gate) -> Iterator[Enter]:
    """Calls a method of the gate in a new thread."""
    with ThreadPoolExecutor(8) as threads:
        yield threads.submit
        gate.open()  # frees waiting threads if a test has failed


def test_any_number_of_runs_may_be_inside(gate: Gate, enter: Enter) -> None:
    for _ in range(3):
        enter(gate.enter).result(WITHIN_S)


def test_a_run_that_must_be_alone_waits_for_the_others_and_they_wait_for_it(
    gate: Gate, enter: Enter
) -> None:
    gate.enter()
    gate.enter()
    alone = enter(gate.enter_alone)
    waits(alone)
    late = enter(gate.enter)
    waits(late)
    gate.leave()
    waits(alone)
    gate.leave()
    alone.result(WITHIN_S)
    waits(late)
    gate.leave()
    late.result(WITHIN_S)


def test_two_runs_that_must_be_alone_enter_one_after_the_other(gate: Gate, enter: Enter) -> None:
    gate.enter_alone()
    second = enter(gate.enter_alone)
    waits(second)
    gate.leave()
    second.result(WITHIN_S)


def test_an_opened_gate_lets_every_run_in(gate: Gate, enter: Enter) -> None:
    gate.enter_alone()
    waiting = [enter(gate.enter), enter(gate.enter_alone), enter(gate.enter)]
    gate.open()
    for one in waiting:
        one.result(WITHIN_S)


def waits(entering: Future[None]) -> None:
    with pytest.raises(TimeoutError):
        entering.result(STILL_S)
