"""Look-ups that are kept: how long, how many, and that one name is asked for once at a time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from worker.loader.fetch import names as module
from worker.loader.fetch.names import KEPT_FAILURE_S, KEPT_S, Names

WITHIN_S = 60.0
ADDRESS = (socket.AF_INET, ("192.0.2.1", 80))


@dataclass
class Resolver:
    """In place of the machine's: what it was asked, what it has, and a clock beside it."""

    asked: list[tuple[str, int]] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)
    hanging: set[str] = field(default_factory=set)
    called: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go_on: threading.Event = field(default_factory=threading.Event)
    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now

    def getaddrinfo(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked.append((host, port))
        self.called.release()
        if host in self.hanging:
            assert self.go_on.wait(WITHIN_S)
        if host in self.unknown:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ADDRESS[1])]


@pytest.fixture
def resolver(monkeypatch) -> Iterator[Resolver]:
    resolver = Resolver()
    monkeypatch.setattr(module.socket, "getaddrinfo", resolver.getaddrinfo)
    monkeypatch.setattr(module, "time", resolver)
    yield resolver
    resolver.go_on.set()


def look_up(names: Names, host: str, port: int = 80, within_s: float = WITHIN_S) -> Any:
    return names.look_up(host, port, within_s=within_s)


def test_an_answer_is_used_again_until_it_is_too_old(resolver: Resolver) -> None:
    names = Names(threads=2)
    assert look_up(names, "a") == (ADDRESS,)
    resolver.now += KEPT_S - 1
    assert look_up(names, "a") == (ADDRESS,)
    assert resolver.asked == [("a", 80)]
    resolver.now += 1
    assert look_up(names, "a") == (ADDRESS,)
    assert resolver.asked == [("a", 80)] * 2


def test_each_port_is_a_look_up_of_its_own(resolver: Resolver) -> None:
    names = Names(threads=2)
    for port in (80, 443, 80):
        look_up(names, "a", port)
    assert resolver.asked == [("a", 80), ("a", 443)]


def test_a_name_without_an_address_is_asked_for_again_soon(resolver: Resolver) -> None:
    names = Names(threads=2)
    resolver.unknown.add("a")
    assert look_up(names, "a") == look_up(names, "a") == ()
    assert len(resolver.asked) == 1
    resolver.unknown.clear()
    resolver.now += KEPT_FAILURE_S
    assert look_up(names, "a") == (ADDRESS,)


def test_a_name_that_is_looked_up_is_not_looked_up_a_second_time(resolver: Resolver) -> None:
    names = Names(threads=8)
    resolver.hanging.add("a")
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(look_up, names, "a")
        assert resolver.called.acquire(timeout=WITHIN_S)
        others = [threads.submit(look_up, names, "a") for _ in range(3)]
        assert look_up(names, "b") == (ADDRESS,), "one that hangs holds up no other"
        resolver.go_on.set()
        assert {one.result() for one in (first, *others)} == {(ADDRESS,)}
    assert resolver.asked == [("a", 80), ("b", 80)]


def test_who_gives_up_leaves_the_look_up_to_the_others(resolver: Resolver) -> None:
    names = Names(threads=1)
    resolver.hanging.add("a")
    with ThreadPoolExecutor(2) as threads:
        patient = threads.submit(look_up, names, "a")
        assert resolver.called.acquire(timeout=WITHIN_S)
        with pytest.raises(TimeoutError):
            look_up(names, "a", within_s=0.01)
        resolver.go_on.set()
        assert patient.result() == (ADDRESS,)


def test_a_look_up_that_nobody_waits_for_any_more_is_not_begun(resolver: Resolver) -> None:
    names = Names(threads=1)
    resolver.hanging.add("a")
    with ThreadPoolExecutor(1) as threads:
        hanging = threads.submit(look_up, names, "a")
        assert resolver.called.acquire(timeout=WITHIN_S)
        with pytest.raises(TimeoutError):
            look_up(names, "b", within_s=0.01)
        resolver.go_on.set()
        hanging.result()
    assert look_up(names, "c") == look_up(names, "b") == (ADDRESS,)
    assert resolver.asked == [("a", 80), ("c", 80), ("b", 80)]


def test_no_more_names_are_kept_than_the_limit_the_youngest_ones(
    resolver: Resolver, monkeypatch
) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 2)
    names = Names(threads=1)
    for host in "abcba":
        look_up(names, host)
    assert [host for host, _ in resolver.asked] == ["a", "b", "c", "a"]
