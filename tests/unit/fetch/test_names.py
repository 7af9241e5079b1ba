"""Cached look-ups: how long, how many, and that a name is looked up only once at a time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import pytest

from worker.loader.fetch import names as module
from worker.loader.fetch.failures import NO_DESCRIPTORS
from worker.loader.fetch.helpers import Helpers
from worker.loader.fetch.loop import Loop
from worker.loader.fetch.names import KEPT_FAILURE_S, KEPT_S, Names

WITHIN_S = 300.0
ADDRESS = "192.0.2.1"


@dataclass
class Resolver:
    """Replaces the machine's resolver and clock, and records the questions."""

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
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ADDRESS, port))]


@pytest.fixture
def resolver(monkeypatch) -> Iterator[Resolver]:
    resolver = Resolver()
    monkeypatch.setattr(module.socket, "getaddrinfo", resolver.getaddrinfo)
    monkeypatch.setattr(module, "time", resolver)
    yield resolver
    resolver.go_on.set()


class Asking:
    """Names with a loop. The loop runs while a test waits for them."""

    def __init__(self, *, helpers: int = 8) -> None:
        self.loop = Loop()
        self.names = Names(self.loop, Helpers(self.loop, fetches=helpers))

    def begin(self, host: str, port: int = 80, within_s: float = WITHIN_S) -> list[Any]:
        """Starts a look-up, and returns the list that will hold its answer."""
        came: list[Any] = []
        self.names.look_up(host, port, monotonic() + within_s, came.append)
        return came

    def wait(self, *came: list[Any]) -> list[Any]:
        while not all(came):
            self.loop.turn()
        assert [len(one) for one in came] == [1] * len(came), "each waiter is called back once"
        return [one for (one,) in came]

    def look_up(self, host: str, port: int = 80) -> Any:
        (came,) = self.wait(self.begin(host, port))
        return came


def test_an_answer_is_reused_until_it_is_too_old(resolver: Resolver) -> None:
    names = Asking()
    assert names.look_up("a") == (ADDRESS,)
    resolver.now += KEPT_S - 1
    assert names.look_up("a") == (ADDRESS,)
    assert resolver.asked == [("a", 80)]
    resolver.now += 1
    assert names.look_up("a") == (ADDRESS,)
    assert resolver.asked == [("a", 80)] * 2


def test_each_port_has_its_own_look_up(resolver: Resolver) -> None:
    names = Asking()
    for port in (80, 443, 80):
        names.look_up("a", port)
    assert resolver.asked == [("a", 80), ("a", 443)]


def test_a_name_without_an_address_is_looked_up_again_soon(resolver: Resolver) -> None:
    names = Asking()
    resolver.unknown.add("a")
    assert names.look_up("a") == names.look_up("a") == ()
    assert len(resolver.asked) == 1
    resolver.unknown.clear()
    resolver.now += KEPT_FAILURE_S
    assert names.look_up("a") == (ADDRESS,)


def test_a_name_is_not_looked_up_twice_at_once(resolver: Resolver) -> None:
    names = Asking()
    resolver.hanging.add("a")
    waiting = [names.begin("a") for _ in range(4)]
    assert resolver.called.acquire(timeout=WITHIN_S)
    assert names.look_up("b") == (ADDRESS,), "a look-up that hangs does not delay others"
    assert not any(waiting)
    resolver.go_on.set()
    assert names.wait(*waiting) == [(ADDRESS,)] * 4
    assert resolver.asked == [("a", 80), ("b", 80)]


def test_a_waiter_that_gives_up_leaves_the_look_up_to_the_others(resolver: Resolver) -> None:
    names = Asking()
    resolver.hanging.add("a")
    patient, impatient = names.begin("a"), names.begin("a", within_s=0.0)
    (gave_up,) = names.wait(impatient)
    assert isinstance(gave_up, TimeoutError)
    resolver.go_on.set()
    assert names.wait(patient) == [(ADDRESS,)]


def test_a_look_up_that_has_no_waiter_left_is_not_begun(resolver: Resolver) -> None:
    names = Asking(helpers=1)  # gives two threads
    resolver.hanging |= {"a", "b"}
    hanging = [names.begin("a"), names.begin("b")]
    for _ in hanging:
        assert resolver.called.acquire(timeout=WITHIN_S)
    (gave_up,) = names.wait(names.begin("c", within_s=0.0))
    assert isinstance(gave_up, TimeoutError)
    resolver.go_on.set()
    names.wait(*hanging)
    assert names.look_up("d") == names.look_up("c") == (ADDRESS,)
    assert [host for host, _ in resolver.asked][2:] == ["d", "c"]


def test_only_the_newest_names_are_kept(resolver: Resolver, monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 2)
    names = Asking()
    for host in "abcba":
        names.look_up(host)
    assert [host for host, _ in resolver.asked] == ["a", "b", "c", "a"]


def test_a_look_up_that_finds_no_free_descriptor_says_so_and_is_not_cached(
    resolver: Resolver, monkeypatch
) -> None:
    names = Asking()
    resolver.unknown.add("a")
    with monkeypatch.context() as patched:
        patched.setattr(module.descriptors, "are_left", lambda: False)
        failed = names.look_up("a")
    assert failed.failure == NO_DESCRIPTORS
    resolver.unknown.clear()
    assert names.look_up("a") == (ADDRESS,)
