"""The event loop of a loader's main thread: sockets, timers, and calls from other threads.

`worker.loader.program` runs it. It handles the worker's requests, libcurl's sockets and the answers
of helper threads in one thread, so the callbacks need no lock. An error in a callback ends the
process.
"""

from __future__ import annotations

import heapq
import itertools
import os
import select
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

Work = Callable[[], object]


class Loop:
    """Owns the epoll descriptor. Call all methods except `call` in the loop's own thread."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._watched: dict[int, Callable[[int], object]] = {}
        self._calls: deque[Work] = deque()
        self._timers: list[tuple[float, int, Work]] = []  # a heap
        self._numbers = itertools.count()
        self._alarm: tuple[float, Work] | None = None
        self.watch(self._bell, select.EPOLLIN, lambda _: os.eventfd_read(self._bell))

    def watch(self, descriptor: int, events: int, work: Callable[[int], object]) -> None:
        """Calls `work` with the events of this descriptor. It replaces any earlier callback."""
        if descriptor in self._watched:
            self._poll.modify(descriptor, events)
        else:
            self._poll.register(descriptor, events)
        self._watched[descriptor] = work

    def unwatch(self, descriptor: int) -> None:
        if self._watched.pop(descriptor, None) is not None:
            with suppress(OSError):  # the descriptor is already closed
                self._poll.unregister(descriptor)

    def call(self, work: Work) -> None:
        """Calls `work` in the loop's thread. Any thread may use this."""
        self._calls.append(work)
        os.eventfd_write(self._bell, 1)

    def later(self, at: float, work: Work) -> None:
        """Calls `work` when the monotonic clock reaches `at`."""
        heapq.heappush(self._timers, (at, next(self._numbers), work))

    def set_alarm(self, alarm: tuple[float, Work] | None) -> None:
        """Sets, moves or removes the alarm. There is only one."""
        self._alarm = alarm

    def turn(self) -> None:
        """Waits until there is something to do, and does it."""
        for descriptor, events in self._poll.poll(self._wait_s()):
            work = self._watched.get(descriptor)
            if work is not None:
                work(events)
        for _ in range(len(self._calls)):
            self._calls.popleft()()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
        if self._alarm is not None and self._alarm[0] <= now:
            (_, ring), self._alarm = self._alarm, None
            ring()

    def _wait_s(self) -> float | None:
        if self._calls:
            return 0.0
        dues = [due for due, *_ in self._timers[:1]]
        if self._alarm is not None:
            dues.append(self._alarm[0])
        return max(0.0, min(dues) - time.monotonic()) if dues else None


class Waiter:
    """Calls back once, with the answer, or at the deadline with TimeoutError."""

    def __init__(self, loop: Loop, ends_at: float, then: Callable[[Any], object]) -> None:
        self._then: Callable[[Any], object] | None = then
        loop.later(ends_at, lambda: self.answer(TimeoutError()))

    @property
    def waiting(self) -> bool:
        return self._then is not None

    def answer(self, value: object) -> None:
        then, self._then = self._then, None
        if then is not None:
            then(value)
