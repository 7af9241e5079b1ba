"""Ends fetches at their deadline, wherever they hang, by cutting their connection.

The time-out of a socket is not enough: it begins anew with each byte, so a server that sends a
byte a second never reaches it. `in_time` is for work that cannot be interrupted.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

from worker.loader.fetch.failures import FetchError

T = TypeVar("T")


class OngoingFetch:
    """A fetch in progress: when it must end, and how to end it."""

    def __init__(self, deadline_s: float) -> None:
        self.ends_at = time.monotonic() + deadline_s
        self.expired = False
        self.redirected = False
        self._switch: socket.socket | None = None
        self._lock = threading.Lock()

    @property
    def left_s(self) -> float:
        return self.ends_at - time.monotonic()

    def use(self, switch: socket.socket) -> None:
        """Takes the connection that this fetch now waits for.

        It gets a descriptor of its own. If the server closes connections, http.client closes its
        descriptor once it has the headers, and reads the body from a copy.
        """
        self.release()
        with self._lock:
            self._switch = switch.dup()
        if self.expired:
            self.expire()

    def release(self) -> None:
        """From here on the connection belongs to another fetch."""
        with self._lock:
            if self._switch is not None:
                self._switch.close()
            self._switch = None

    def expire(self) -> None:
        """Cuts the connection; the fetch then ends with an error."""
        self.expired = True
        with self._lock:
            if self._switch is not None:
                with suppress(OSError):  # closed by the other side meanwhile
                    self._switch.shutdown(socket.SHUT_RDWR)

    def check(self) -> None:
        """
        Raises:
            FetchError: the deadline is over.
        """
        if self.expired or self.left_s <= 0:
            raise FetchError("timeout", "the deadline is over")


class Watchdog:
    """Owns the thread that expires fetches. All last equally long, so the oldest expires first."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._queue: deque[OngoingFetch] = deque()
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    @contextmanager
    def watch(self) -> Iterator[OngoingFetch]:
        ongoing = OngoingFetch(self._deadline_s)
        with self._changed:
            self._queue.append(ongoing)
            self._changed.notify()
        try:
            yield ongoing
        finally:
            ongoing.release()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    self._changed.wait()
                first = self._queue.popleft()
            time.sleep(max(0.0, first.left_s))
            first.expire()


def in_time(helpers: ThreadPoolExecutor, left_s: float, what: str, work: Callable[[], T]) -> T:
    """Runs the work in a helper thread; returns what it returns, or raises what it raises.

    Raises:
        FetchError: it took too long. Work that has begun goes on, and its result is dropped.
    """
    answer = helpers.submit(work)
    try:
        return answer.result(timeout=max(0.0, left_s))
    except TimeoutError as error:
        answer.cancel()
        raise FetchError("timeout", what) from error
