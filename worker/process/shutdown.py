"""What signals and a broken device do to the worker: it drains, and then Celery ends.

Celery's threads pool waits for every running task on SIGTERM and ignores a second one, so
both answers are our own: the first signal drains, the second one leaves at once.
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
        """How often one came, by whether the supervisor passed it on."""

    def install(self) -> None:
        """From the main thread. The thread is started now: a signal handler may take no lock."""
        threading.Thread(target=self._run, name="shutdown", daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT, STOP_SIGNAL):
            signal.signal(number, self._on_signal)

    def stop(self, status: int) -> None:
        """Drains, and Celery ends with this exit status; from any thread."""
        state.should_stop = status  # Celery's loop looks at it every second
        self._asked.set()

    def _on_signal(self, number: int, _frame: object) -> None:
        """One request may come twice: from the sender and, passed on, from the supervisor."""
        self._signals[number == STOP_SIGNAL] += 1
        if max(self._signals.values()) > 1:
            os._exit(1)  # its chunks come again from SQL, once the lease is over
        if not self._asked.is_set():
            self.stop(os.EX_OK)

    def _run(self) -> None:
        self._asked.wait()
        log.info("Stopping within %.0f s; a second signal stops at once.", self._within_s)
        try:
            self._drain()
        except Exception:
            log.exception("A fault while stopping.")
        threading.Event().wait(self._within_s)  # the process ends before, if all is well
        log.error("Not finished after %.0f s; leaving at once.", self._within_s)
        os._exit(1)
