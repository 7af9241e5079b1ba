"""Keeps runs whose tasks have ended while some of their images were still loading.

A task hands over its run when its patience is over. A thread stores the run when all its images
have an outcome, or hands the rest back when the worker stops.
"""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue

from contract.log import log_about
from worker.chunk.live_runs import Runs
from worker.chunk.run import ChunkRun

log = logging.getLogger(__name__)


class Stragglers:
    """Owns the runs whose tasks have ended."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._ready: SimpleQueue[ChunkRun | None] = SimpleQueue()
        self._kept = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._store_ready, name="stragglers")

    def start(self) -> None:
        self._thread.start()

    def keep(self, run: ChunkRun) -> None:
        with self._changed:
            self._kept += 1
        self._runs.outlive_task(run)
        run.when_ready(self._ready.put)

    def close(self) -> None:
        """Returns when every run is stored: soon if they drain, otherwise when they finish."""
        with self._changed:
            self._changed.wait_for(lambda: self._kept == 0)
        self._ready.put(None)
        self._thread.join()

    def _store_ready(self) -> None:
        while (run := self._ready.get()) is not None:
            with log_about(**run.claim.logged):
                self._store(run)
            with self._changed:
                self._kept -= 1
                self._changed.notify_all()

    def _store(self, run: ChunkRun) -> None:
        try:
            self._runs.store(run)
        except Exception as fault:  # noqa: BLE001  (any error costs only one run)
            self._fail(run, fault)

    def _fail(self, run: ChunkRun, fault: Exception) -> None:
        try:
            self._runs.fail(run, fault)
        except Exception:
            log.exception("%s: the chunk stays with this worker until the worker ends", run.claim)
