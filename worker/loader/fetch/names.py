"""Addresses of host names: looked up once and kept for a while, for all threads of a loader.

`worker.loader.fetch.fetcher` asks for each new connection. What is kept is the resolver's answer
and no verdict: whether an address may be connected to is asked for every connection. A look-up can
not be broken off, so it runs in a thread of its own, and is waited for as long as its fetch lasts.
"""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

# Python does not say for how long an answer is good; most are for a minute or more.
KEPT_S: Final = 60.0
# A name that has no address just now is asked for again by the time that its images come again.
KEPT_FAILURE_S: Final = 3.0
# A crawl names more hosts than are worth keeping; some hundred bytes each.
MOST_KEPT: Final = 10_000

Addresses = tuple[tuple[socket.AddressFamily, Any], ...]
"""Family and socket address, the best first."""
_Name = tuple[str, int]  # host and port


@dataclass(frozen=True)
class _Answer:
    addresses: Addresses
    good_until: float


@dataclass
class _LookUp:
    """One that is under way, and how many wait for it."""

    answer: Future[_Answer]
    waiting: int = 0


class Names:
    """Owns the answers, and the threads that look up."""

    def __init__(self, *, threads: int) -> None:
        self._helpers = ThreadPoolExecutor(threads, thread_name_prefix="lookup")
        self._lock = threading.Lock()
        self._kept: dict[_Name, _Answer] = {}  # the oldest first
        self._under_way: dict[_Name, _LookUp] = {}

    def look_up(self, host: str, port: int, *, within_s: float) -> Addresses:
        """None at all if the name has no address.

        Raises:
            TimeoutError: the resolver did not answer in time; its answer is kept when it comes.
        """
        name = (host, port)
        with self._lock:
            kept = self._kept.get(name)
            if kept is not None and time.monotonic() < kept.good_until:
                return kept.addresses
            look_up = self._under_way.get(name) or self._begin(name)
            look_up.waiting += 1
        try:
            return look_up.answer.result(timeout=max(0.0, within_s)).addresses
        finally:
            self._leave(name, look_up)

    def _begin(self, name: _Name) -> _LookUp:
        look_up = self._under_way[name] = _LookUp(self._helpers.submit(self._ask, name))
        return look_up

    def _leave(self, name: _Name, look_up: _LookUp) -> None:
        """One that nobody waits for any more, and that has not begun, is dropped."""
        with self._lock:
            look_up.waiting -= 1
            if not look_up.waiting and look_up.answer.cancel():
                del self._under_way[name]

    def _ask(self, name: _Name) -> _Answer:
        try:
            answer = _ask_resolver(*name)
            with self._lock:
                self._keep(name, answer)
            return answer
        finally:
            with self._lock:
                del self._under_way[name]

    def _keep(self, name: _Name, answer: _Answer) -> None:
        self._kept.pop(name, None)
        while len(self._kept) >= MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[name] = answer


def _ask_resolver(host: str, port: int) -> _Answer:
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return _Answer((), time.monotonic() + KEPT_FAILURE_S)
    addresses = tuple((family, address) for family, _, _, _, address in found)
    return _Answer(addresses, time.monotonic() + KEPT_S)
