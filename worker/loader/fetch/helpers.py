"""Threads for work that cannot be interrupted: look-ups, files and object stores.

`worker.loader.fetch.fetcher` and `worker.loader.fetch.names` submit work. A fetch waits for it
until its deadline, but the thread may hang for longer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from worker.loader.fetch.loop import Loop, Waiter

log = logging.getLogger(__name__)

# For each concurrent fetch: the thread for which it waits, and one that still hangs after an
# earlier deadline. With fewer, hanging names would delay healthy ones.
HELPERS_A_FETCH: Final = 2


class Helpers:
    """Owns the threads, which start when they are needed."""

    def __init__(self, loop: Loop, *, fetches: int) -> None:
        self._loop = loop
        self._threads = ThreadPoolExecutor(HELPERS_A_FETCH * fetches, thread_name_prefix="helper")
        self._short = False

    def run(
        self, work: Callable[[], object], ends_at: float, then: Callable[[object], object]
    ) -> None:
        """Calls back in the loop with the work's result or error, or at the deadline with
        TimeoutError. Work that has begun then continues, but its result is dropped.
        """
        waiter = Waiter(self._loop, ends_at, then)
        self.submit(partial(self._work, work, waiter))

    def submit(self, work: Callable[[], object]) -> None:
        """Does the work in a thread, without a callback."""
        try:
            self._threads.submit(work)
        except RuntimeError:  # no thread can be started: a running one will do it later
            if not self._short:
                log.warning("The system permits a loader no more threads. It continues with fewer.")
            self._short = True

    def _work(self, work: Callable[[], object], waiter: Waiter) -> None:
        if not waiter.waiting:
            return
        try:
            came: object = work()
        except BaseException as error:  # noqa: BLE001  (any error costs only this image)
            came = error
        self._loop.call(partial(waiter.answer, came))
