"""Reads the answers of all loaders: one thread, which takes what is there and then rests.

So that a second has a bounded number of wake-ups, however many images come: to wake a thread
costs more than to take an image in. The pool gets all that has come since in one call.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from typing import Final

from worker.pool.process import LoaderProcess
from worker.pool.wire import Done

# Between looks, while answers come; short beside a fetch, and beside the wait for a batch.
LONGEST_REST_S: Final = 0.025
# But no loader may run out of slots meanwhile: not even the smallest picture is decoded in less.
REST_A_SLOT_S: Final = 0.0001

Came = list[tuple[LoaderProcess, list[Done]]]


class LoaderReader:
    """Owns the thread. Safe for many threads."""

    def __init__(self, take_in: Callable[[Came], None], *, slots: int) -> None:
        """
        Args:
            take_in: called from the reader's thread; may come to distrust a process.
            slots: of each loader.
        """
        self._take_in = take_in
        self._rest_s = min(LONGEST_REST_S, slots * REST_A_SLOT_S)
        self._epoll = select.epoll()
        self._processes: dict[int, LoaderProcess] = {}  # by their descriptors
        self._closing = os.eventfd(0)
        self._epoll.register(self._closing, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="loader-reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, process: LoaderProcess) -> None:
        """Until it is gone, which `process.gone` then says; its owner closes it after that."""
        descriptor = process.connection.fileno()
        self._processes[descriptor] = process
        self._epoll.register(descriptor, select.EPOLLIN)

    def close(self) -> None:
        """Once every process is gone, or where none was ever started; may be called twice."""
        if self._epoll.closed:
            return
        os.eventfd_write(self._closing, 1)
        if self._thread.ident is not None:
            self._thread.join()
        self._epoll.close()
        os.close(self._closing)

    def _run(self) -> None:
        while True:
            descriptors = [descriptor for descriptor, _ in self._epoll.poll()]
            if self._closing in descriptors:
                return
            self._read(descriptors)
            time.sleep(self._rest_s)

    def _read(self, descriptors: list[int]) -> None:
        came: Came = []
        lost = []
        for descriptor in descriptors:
            process = self._processes[descriptor]
            answers, may_go_on = process.receive()
            if answers:
                came.append((process, answers))
            if not may_go_on:
                lost.append(descriptor)
        if came:
            self._take_in(came)
        for descriptor in descriptors:
            if descriptor in lost or self._processes[descriptor].distrusted:
                self._drop(descriptor)

    def _drop(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)
        self._processes.pop(descriptor).gone.set()
