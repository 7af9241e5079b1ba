"""The kernel of the simulation: times and places, beside what queueing theory says."""

from __future__ import annotations

from random import Random

import pytest

from benchmarks.simulation.kernel import Clock, Process, Station


def using(station: Station, seconds: float, left: list[float], clock: Clock) -> Process:
    yield station
    yield seconds
    station.leave()
    left.append(clock.now)


def arriving(clock: Clock, station: Station, gaps: list[float], service: list[float]) -> Process:
    for gap, seconds in zip(gaps, service, strict=True):
        yield gap
        clock.start(using(station, seconds, [], clock))


def test_one_place_serves_in_the_order_of_arrival() -> None:
    """By hand: 0 to 2, 2 to 3, 3 to 6."""
    clock = Clock()
    station, left = Station(clock, 1), list[float]()
    for after_s, seconds in ((0.0, 2.0), (0.5, 1.0), (0.6, 3.0)):
        clock.start(using(station, seconds, left, clock), after_s)
    clock.run(10.0)
    assert left == [2.0, 3.0, 6.0]
    assert station.taken_s == 6.0


def test_two_places_serve_two_at_once() -> None:
    clock = Clock()
    station, left = Station(clock, 2), list[float]()
    for _ in range(3):
        clock.start(using(station, 2.0, left, clock))
    clock.run(3.0)
    assert left == [2.0, 2.0]
    assert (station.taken, station.taken_s) == (1, 5.0)
    clock.run(10.0)
    assert left == [2.0, 2.0, 4.0]


def test_an_md1_queue_is_as_busy_and_as_long_as_theory_says() -> None:
    """Utilisation is rate times service time; the queue's length is rho² / (2 (1 - rho))."""
    clock, random = Clock(), Random(7)
    rate, seconds, number = 0.8, 1.0, 200_000
    station = Station(clock, 1)
    gaps = [random.expovariate(rate) for _ in range(number)]
    clock.start(arriving(clock, station, gaps, [seconds] * number))
    looks, waiting = 0, 0
    while clock.now < number / rate * 0.95:
        clock.run(clock.now + random.expovariate(1.0))
        looks += 1
        waiting += station.waiting
    rho = rate * seconds
    assert station.taken_s / clock.now == pytest.approx(rho, rel=0.02)
    assert waiting / looks == pytest.approx(rho**2 / (2 * (1 - rho)), rel=0.1)
    assert station.arrived == station.left + station.taken + station.waiting
