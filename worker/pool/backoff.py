"""Keeps items, and gives out each one when it is due.

`worker.commands.classify_input` puts in images that failed with a transient error, and
`worker.pool.host_rate` hosts that wait for their rate. (A worker's chunks wait in SQL.)
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


class Backoff(Generic[T]):
    """Owns the waiting items, and the thread that gives them out when they are due."""

    def __init__(self, give_out: Callable[[T], None]) -> None:
        """`give_out` may block. Other items that are due then wait."""
        self._give_out = give_out
        self._waiting: list[tuple[float, int, T]] = []
        self._numbers = count()  # with equal times, the item that was put first comes first
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="backoff", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, item: T, delay_s: float) -> None:
        """Adds an item. Never blocks for long, because the pool's threads call it."""
        with self._changed:
            due_at = time.monotonic() + delay_s
            heapq.heappush(self._waiting, (due_at, next(self._numbers), item))
            self._changed.notify()

    def close(self) -> None:
        """Drops the waiting items. May be called even if it was not started."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while (item := self._next()) is not None:
            self._give_out(item)

    def _next(self) -> T | None:
        """Waits for the next item that is due. Returns None once it is closed."""
        with self._changed:
            while not self._closed:
                wait_s = self._waiting[0][0] - time.monotonic() if self._waiting else None
                if wait_s is not None and wait_s <= 0:
                    return heapq.heappop(self._waiting)[2]
                self._changed.wait(wait_s)
            return None
