"""Addresses of host names: looked up once and kept for a while, for all threads of a loader.

`worker.loader.fetch.fetcher` asks for each new connection. Only the resolver's answer is kept;
each connection checks again whether its address is permitted. A look-up cannot be interrupted, so
it runs in a helper thread, and its fetch waits for it until the deadline.
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
# A name without an address is looked up again by the time that its images are retried.
KEPT_FAILURE_S: Final = 3.0
# A crawl names more hosts than are worth keeping. Each takes some hundred bytes.
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
    """A look-up in progress, and how many fetches wait for it."""

    answer: Future[_Answer]
    waiting: int = 0


class Names:
    """Owns the answers, and the helper threads that look names up."""

    def __init__(self, *, threads: int) -> None:
        self._helpers = ThreadPoolExecutor(threads, thread_name_prefix="lookup")
        self._lock = threading.Lock()
        self._kept: dict[_Name, _Answer] = {}  # the oldest first
        self._in_progress: dict[_Name, _LookUp] = {}

    def look_up(self, host: str, port: int, *, within_s: float) -> Addresses:
        """The addresses of the host; empty if it has none.

        Raises:
            TimeoutError: the resolver did not answer in time; its answer is kept when it comes.
        """
        name = (host, port)
        with self._lock:
            kept = self._kept.get(name)
            if kept is not None and time.monotonic() < kept.good_until:
                return kept.addresses
            look_up = self._in_progress.get(name) or self._begin(name)
            look_up.waiting += 1
        try:
            return look_up.answer.result(timeout=max(0.0, within_s)).addresses
        finally:
            self._leave(name, look_up)

    def _begin(self, name: _Name) -> _LookUp:
        look_up = self._in_progress[name] = _LookUp(self._helpers.submit(self._ask, name))
        return look_up

    def _leave(self, name: _Name, look_up: _LookUp) -> None:
        """Drops a look-up that has not begun and that no fetch waits for."""
        with self._lock:
            look_up.waiting -= 1
            if not look_up.waiting and look_up.answer.cancel():
                del self._in_progress[name]

    def _ask(self, name: _Name) -> _Answer:
        try:
            answer = _ask_resolver(*name)
            with self._lock:
                self._keep(name, answer)
            return answer
        finally:
            with self._lock:
                del self._in_progress[name]

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
