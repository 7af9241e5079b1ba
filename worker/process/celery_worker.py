"""Celery's worker program as ours: its logging, its start, and what it says of itself.

`worker.main` builds it and runs it. What signals do to it is in `worker.process.shutdown`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from celery import Celery, signals
from celery.apps.worker import Worker

from contract.log import log_lines
from contract.settings import Settings
from worker.process import remote_control
from worker.process.shutdown import Shutdown
from worker.process.task_threads import TaskThreads

# How often Celery's loop sets the number of messages, and tells Flower what the tasks have done.
RESIZE_S: Final = 1.0
# Celery's lines for each task that comes, ends or goes back; ours say more.
_CHATTY: Final = ("celery.worker.strategy", "celery.app.trace")


def configure_logging(settings: Settings) -> None:
    """Plain lines on standard error, for us and for Celery."""
    log_lines(settings.log_level)
    if settings.log_level != "DEBUG":
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)
    signals.setup_logging.connect(_leave_logging_alone)


def _leave_logging_alone(**_: object) -> None:
    """That this is connected keeps Celery from setting up its own."""


class CeleryWorker(Worker):  # type: ignore[misc]  # Celery has no types
    """Celery's worker, with up to `chunks_in_flight` task threads in this process.

    How many messages it holds is set every second, by `wanted_chunks`: they are as many tasks,
    since each has a thread. `node` is its name for Flower; `worker` the one in SQL.
    """

    def __init__(  # noqa: PLR0913  (built once, in worker.main)
        self,
        app: Celery,
        settings: Settings,
        *,
        node: str,
        worker: str,
        queue: str,
        shutdown: Shutdown,
        wanted_chunks: Callable[[], int],
        when_ready: Callable[[], None],
    ) -> None:
        self._shutdown_on_signal = shutdown
        self._wanted_chunks = wanted_chunks
        self._when_ready = when_ready
        self._worker = worker
        self._resizing: Any = None
        remote_control.install(app)
        super().__init__(
            app=app,
            hostname=node,
            pool=TaskThreads,
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

    def stats(self) -> dict[str, Any]:
        """Called by Celery for the remote command `stats`, by which Flower shows a worker."""
        found: dict[str, Any] = super().stats()
        broker = found.get("broker")
        if isinstance(broker, dict):
            found["broker"] = remote_control.shown_broker(str(self.app.conf.broker_url), broker)
        return found | {"worker": self._worker}

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
