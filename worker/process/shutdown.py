"""Stops the worker after a signal or when its device breaks: it drains, and then Celery ends.

On SIGTERM Celery's thread pool waits for every running task, and it ignores a second signal. So
we handle both: the first signal drains, the second one ends the process at once.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable

from celery.worker import state

from worker.process.stop_signal import STOP_SIGNAL

log = logging.getLogger(__name__)


class Shutdown:
    """Answers SIGTERM, SIGINT and a broken device. Owns the thread that drains."""

    def __init__(self, drain: Callable[[], None], *, within_s: float) -> None:
        self._drain = drain
        self._within_s = within_s
        self._asked = threading.Event()
        self._signals: Counter[bool] = Counter()
        """How many signals arrived; the key says whether the supervisor passed them on."""

    def install(self) -> None:
        """Call it in the main thread. It starts the thread, because a handler may take no lock."""
        threading.Thread(target=self._run, name="shutdown", daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT, STOP_SIGNAL):
            signal.signal(number, self._on_signal)

    def stop(self, status: int) -> None:
        """Drains, and ends Celery with this exit status. May be called from any thread."""
        state.should_stop = status  # Celery's loop looks at it every second
        self._asked.set()

    def _on_signal(self, number: int, _frame: object) -> None:
        """A request may arrive twice: from its sender, and passed on by the supervisor."""
        self._signals[number == STOP_SIGNAL] += 1
        if max(self._signals.values()) > 1:
            os._exit(1)  # its chunks run again when the lease is over
        if not self._asked.is_set():
            self.stop(os.EX_OK)

    def _run(self) -> None:
        self._asked.wait()
        log.info("Stopping within %.0f s; a second signal stops at once.", self._within_s)
        try:
            self._drain()
        except Exception:
            log.exception("An error occurred while stopping.")
        threading.Event().wait(self._within_s)  # normally the process ends before this returns
        log.error("The worker has not stopped within %.0f s; ending it now.", self._within_s)
        os._exit(1)
