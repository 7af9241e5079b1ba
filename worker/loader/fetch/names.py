"""Addresses of host names: looked up once, and kept for a while.

`worker.loader.fetch.fetcher` asks for each request. Only the resolver's answer is kept; each
connection checks again whether its address is permitted.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from worker.loader.fetch import descriptors
from worker.loader.fetch.failures import NO_DESCRIPTORS, FetchError
from worker.loader.fetch.helpers import Helpers
from worker.loader.fetch.loop import Loop, Waiter

# Python does not say for how long an answer is good; most are for a minute or more.
KEPT_S: Final = 60.0
# A name without an address is looked up again by the time that its images are retried.
KEPT_FAILURE_S: Final = 3.0
# A crawl names more hosts than are worth keeping. Each takes some hundred bytes.
MOST_KEPT: Final = 10_000

Addresses = tuple[str, ...]
"""The best first; empty: the name has none."""
Then = Callable[[Addresses | Exception], object]
_Name = tuple[str, int]  # host and port


@dataclass(frozen=True)
class _Answer:
    addresses: Addresses
    good_until: float


class Names:
    """Owns the answers, and who waits for them. It belongs to the loop's thread."""

    def __init__(self, loop: Loop, helpers: Helpers) -> None:
        self._loop = loop
        self._helpers = helpers
        self._kept: dict[_Name, _Answer] = {}  # the oldest first
        self._waiters: dict[_Name, list[Waiter]] = {}

    def look_up(self, host: str, port: int, ends_at: float, then: Then) -> None:
        """Calls back with the addresses; with TimeoutError if the resolver does not answer in
        time, and then its answer is kept when it comes; with FetchError for want of descriptors.
        """
        name = (host, port)
        kept = self._kept.get(name)
        if kept is not None and time.monotonic() < kept.good_until:
            then(kept.addresses)
            return
        waiters = self._waiters.setdefault(name, [])
        waiters.append(Waiter(self._loop, ends_at, then))
        if len(waiters) == 1:
            self._helpers.submit(partial(self._ask, name, waiters))

    def _ask(self, name: _Name, waiters: list[Waiter]) -> None:
        """In a helper thread. Asks nothing if nobody waits any more."""
        came = _ask_resolver(*name) if any(waiter.waiting for waiter in waiters) else None
        self._loop.call(partial(self._take, name, came))

    def _take(self, name: _Name, came: _Answer | FetchError | None) -> None:
        waiters = self._waiters.pop(name)
        if came is None:
            if any(waiter.waiting for waiter in waiters):  # one came just then
                self._waiters[name] = waiters
                self._helpers.submit(partial(self._ask, name, waiters))
            return
        if isinstance(came, _Answer):
            self._keep(name, came)
        for waiter in waiters:
            waiter.answer(came.addresses if isinstance(came, _Answer) else came)

    def _keep(self, name: _Name, answer: _Answer) -> None:
        self._kept.pop(name, None)
        while len(self._kept) >= MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[name] = answer


def _ask_resolver(host: str, port: int) -> _Answer | FetchError:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        if not descriptors.are_left():  # the resolver says nothing of it
            return FetchError(NO_DESCRIPTORS)
        return _Answer((), time.monotonic() + KEPT_FAILURE_S)
    addresses = tuple(dict.fromkeys(str(address[0]) for *_, address in found))
    return _Answer(addresses, time.monotonic() + KEPT_S)
