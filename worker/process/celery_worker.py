"""Celery's worker program as ours: its logging, its start, and what signals do to it.

Celery's threads pool waits for every running task on SIGTERM and ignores a second one, so
both answers are our own: the first signal drains, the second one leaves at once.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from celery import Celery, signals
from celery.apps.worker import Worker
from celery.worker import state

from contract.settings import Settings
from worker.process.supervisor import STOP_SIGNAL

log = logging.getLogger(__name__)

# How often Celery's loop sets the number of messages, and tells Flower what the tasks have done.
RESIZE_S: Final = 1.0
# Celery's lines for each task that comes, ends or goes back; ours say more.
_CHATTY: Final = ("celery.worker.strategy", "celery.app.trace")


def configure_logging(settings: Settings) -> None:
    """Plain lines on standard error, for us and for Celery."""
    logging.basicConfig(
        level=settings.log_level,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )
    if settings.log_level != "DEBUG":
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)
    signals.setup_logging.connect(_leave_logging_alone)


def _leave_logging_alone(**_: object) -> None:
    """That this is connected keeps Celery from setting up its own."""


class Shutdown:
    """Answers SIGTERM, SIGINT and a broken device. Owns the thread that drains."""

    def __init__(self, drain: Callable[[], None], *, within_s: float) -> None:
        self._drain = drain
        self._within_s = within_s
        self._asked = threading.Event()
        self._signals: Counter[bool] = Counter()  # how often, by whether the witness passed it on

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
        """The same request may come from the witness and from who has asked it."""
        self._signals[number == STOP_SIGNAL] += 1
        if max(self._signals.values()) > 1:
            os._exit(1)  # what is in hand comes again from SQL, once the lease is over
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


class CeleryWorker(Worker):  # type: ignore[misc]  # Celery has no types
    """Celery's worker, with up to `chunks_in_flight` task threads in this process.

    How many messages it holds is set every second, by `wanted_chunks`: they are as many tasks,
    since each has a thread.
    """

    def __init__(  # noqa: PLR0913  (built once, in worker.main)
        self,
        app: Celery,
        settings: Settings,
        *,
        name: str,
        queue: str,
        shutdown: Shutdown,
        wanted_chunks: Callable[[], int],
        when_ready: Callable[[], None],
    ) -> None:
        self._shutdown_on_signal = shutdown
        self._wanted_chunks = wanted_chunks
        self._when_ready = when_ready
        self._resizing: Any = None
        super().__init__(
            app=app,
            hostname=f"resnextq@{name}",
            pool="threads",
            concurrency=settings.chunks_in_flight,
            queues=[queue],
            loglevel=settings.log_level,
            quiet=True,  # no banner
            without_mingle=True,
            without_gossip=True,
        )

    def install_platform_tweaks(self, _worker: Any) -> None:  # noqa: ANN401
        """Called by Celery where it would install its own signal handlers."""
        self._shutdown_on_signal.install()

    def on_consumer_ready(self, consumer: Any) -> None:  # noqa: ANN401
        """Called by Celery once it takes messages, and again after each lost connection."""
        signals.worker_ready.send(sender=consumer)
        if self._resizing is None:
            self._when_ready()
        else:
            self._resizing.cancel()
        # To tell each event at once would cost this process more than the task does otherwise.
        consumer.event_dispatcher.on_send_buffered = None
        self._resize(consumer)
        self._resizing = consumer.timer.call_repeatedly(RESIZE_S, self._look, (consumer,))

    def on_stopped(self) -> None:
        """Called by Celery once every task has ended, and before it leaves the broker."""
        _tell_events(self.consumer)
        super().on_stopped()

    def _look(self, consumer: Any) -> None:  # noqa: ANN401
        self._resize(consumer)
        _tell_events(consumer)

    def _resize(self, consumer: Any) -> None:  # noqa: ANN401
        """Celery's loop sends the number on; below what is held, nothing comes until it fits."""
        more = self._wanted_chunks() - consumer.qos.value
        if more > 0:
            consumer.qos.increment_eventually(more)
        else:
            consumer.qos.decrement_eventually(-more)


def _tell_events(consumer: Any) -> None:  # noqa: ANN401  (Celery has no types)
    """What the tasks have done since; there is nobody to tell where there is no connection."""
    if consumer.event_dispatcher is not None:
        consumer.event_dispatcher.flush()
