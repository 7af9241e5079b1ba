"""Reads the answers and the logs of all loaders in one thread, which rests after each read.

This bounds the number of wake-ups per second: waking a thread costs more than handling an image.
`worker.pool.scheduler` gets all answers of a read in one call.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from typing import Final

from worker.pool.loader_log import LogBudget
from worker.pool.process import LoaderProcess
from worker.pool.wire import Answer

# The rest between reads. It is short compared with a fetch and with the wait for a batch.
LONGEST_REST_S: Final = 0.025
# But no loader may run out of slots during a rest. Even the smallest picture takes longer than
# this.
REST_A_SLOT_S: Final = 0.0001

Arrivals = list[tuple[LoaderProcess, list[Answer]]]


class LoaderReader:
    """Owns the thread. Safe for many threads."""

    def __init__(self, take_in: Callable[[Arrivals], None], *, slots: int) -> None:
        """
        Args:
            take_in: called in the reader's thread; may mark a process as distrusted.
            slots: the number of slots of each loader.
        """
        self._take_in = take_in
        self._rest_s = min(LONGEST_REST_S, slots * REST_A_SLOT_S)
        self._epoll = select.epoll()
        self._processes: dict[int, LoaderProcess] = {}  # by descriptor
        self._logging: dict[int, LoaderProcess] = {}  # by the descriptor of the log
        self._budget = LogBudget()
        self._closing = os.eventfd(0)
        self._epoll.register(self._closing, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="loader-reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, process: LoaderProcess) -> None:
        """Reads this process until it is gone, then sets `process.gone`. Its owner closes the
        connection only after that.
        """
        descriptor = process.connection.fileno()
        self._processes[descriptor] = process
        self._logging[process.log.fileno()] = process
        self._epoll.register(descriptor, select.EPOLLIN)
        self._epoll.register(process.log.fileno(), select.EPOLLIN)

    def close(self) -> None:
        """Call this when every process is gone, or if none was started. May be called twice."""
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
            self._read_logs([one for one in descriptors if one in self._logging])
            self._read([one for one in descriptors if one in self._processes])
            time.sleep(self._rest_s)

    def _read_logs(self, descriptors: list[int]) -> None:
        for descriptor in descriptors:
            if not self._logging[descriptor].log.read(self._budget):
                self._drop_log(descriptor)

    def _read(self, descriptors: list[int]) -> None:
        arrivals: Arrivals = []
        lost = []
        for descriptor in descriptors:
            process = self._processes[descriptor]
            answers, may_go_on = process.receive()
            if answers:
                arrivals.append((process, answers))
            if not may_go_on:
                lost.append(descriptor)
        if arrivals:
            self._take_in(arrivals)
        for descriptor in descriptors:
            if descriptor in lost or self._processes[descriptor].distrusted:
                self._drop(descriptor)

    def _drop(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)
        process = self._processes.pop(descriptor)
        if not process.log.closed:
            self._drop_log(process.log.fileno())
        process.gone.set()

    def _drop_log(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)
        self._logging.pop(descriptor).log.close(self._budget)
