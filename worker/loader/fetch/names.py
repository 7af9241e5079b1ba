"""Looks up the addresses of host names, and keeps them for a while.

`worker.loader.fetch.fetcher` asks for each request. Only the resolver's answer is kept. Each
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

# Python does not say how long an answer is valid. Most are valid for a minute or more.
KEPT_S: Final = 60.0
# It is short, so that a name without an address is looked up again when its images are retried.
KEPT_FAILURE_S: Final = 3.0
# A crawl has more hosts than are worth keeping. Each takes some hundred bytes.
MOST_KEPT: Final = 10_000

Addresses = tuple[str, ...]
"""The best address first; empty if the name has none."""
Then = Callable[[Addresses | Exception], object]
_Name = tuple[str, int]  # host and port


@dataclass(frozen=True)
class _Answer:
    addresses: Addresses
    good_until: float


class Names:
    """Owns the answers and the fetches that wait for them. Use it in the loop's thread."""

    def __init__(self, loop: Loop, helpers: Helpers) -> None:
        self._loop = loop
        self._helpers = helpers
        self._kept: dict[_Name, _Answer] = {}  # the oldest first
        self._waiters: dict[_Name, list[Waiter]] = {}

    def look_up(self, host: str, port: int, ends_at: float, then: Then) -> None:
        """Calls back with the addresses; or with TimeoutError if the resolver does not answer in
        time, whose answer is then kept when it comes; or with FetchError if no descriptors are
        left.
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
        """Asks the resolver, in a helper thread, unless no fetch waits for the name any more."""
        came = _ask_resolver(*name) if any(waiter.waiting for waiter in waiters) else None
        self._loop.call(partial(self._take, name, came))

    def _take(self, name: _Name, came: _Answer | FetchError | None) -> None:
        waiters = self._waiters.pop(name)
        if came is None:
            if any(waiter.waiting for waiter in waiters):  # a fetch has asked in the meantime
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
        if not descriptors.are_left():  # the resolver does not report this
            return FetchError(NO_DESCRIPTORS)
        return _Answer((), time.monotonic() + KEPT_FAILURE_S)
    addresses = tuple(dict.fromkeys(str(address[0]) for *_, address in found))
    return _Answer(addresses, time.monotonic() + KEPT_S)
