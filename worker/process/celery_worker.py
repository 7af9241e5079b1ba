"""Our subclass of Celery's worker: its logging, its start, and what it reports about itself.

`worker.main` builds and runs it. `worker.process.shutdown` handles its signals.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from celery import Celery, signals
from celery.apps.worker import Worker

from contract.log import log_as_set
from contract.settings import Settings
from worker.process import remote_control
from worker.process.shutdown import Shutdown
from worker.process.task_threads import TaskThreads

# How often Celery's loop sets the number of messages and sends the tasks' events to Flower.
RESIZE_S: Final = 1.0
# These write a line for each task that arrives, ends or is returned. Our own lines say more.
_CHATTY: Final = ("celery.worker.strategy", "celery.app.trace")


def configure_logging(settings: Settings) -> None:
    """Makes our log and Celery's write lines to standard error."""
    log_as_set(settings)
    if settings.log_level != "DEBUG":
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)
    signals.setup_logging.connect(_leave_logging_alone)


def _leave_logging_alone(**_: object) -> None:
    """Does nothing. While a receiver is connected, Celery does not set up its own logging."""


class CeleryWorker(Worker):  # type: ignore[misc]  # Celery has no types
    """Celery's worker, with up to `chunks_in_flight` task threads in this process.

    Every second it sets the number of messages that it holds to `wanted_chunks()`. Each message
    is a task with its own thread. `node` is its name for Flower, `worker` its name in SQL.
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
        """Installs our signal handlers. Celery would install its own here."""
        self._shutdown_on_signal.install()

    def on_consumer_ready(self, consumer: Any) -> None:  # noqa: ANN401
        """Celery calls this when it starts to take messages, and again after a lost connection."""
        signals.worker_ready.send(sender=consumer)
        if self._resizing is None:
            self._when_ready()
        else:
            self._resizing.cancel()
        # Sending each event at once would cost this process more than the rest of the task.
        consumer.event_dispatcher.on_send_buffered = None
        self._resize(consumer)
        self._resizing = consumer.timer.call_repeatedly(RESIZE_S, self._look, (consumer,))

    def stats(self) -> dict[str, Any]:
        """The reply to the remote command `stats`, from which Flower shows a worker."""
        found: dict[str, Any] = super().stats()
        broker = found.get("broker")
        if isinstance(broker, dict):
            found["broker"] = remote_control.shown_broker(str(self.app.conf.broker_url), broker)
        return found | {"worker": self._worker}

    def on_stopped(self) -> None:
        """Celery calls this after every task has ended, before it disconnects from the broker."""
        _tell_events(self.consumer)
        super().on_stopped()

    def _look(self, consumer: Any) -> None:  # noqa: ANN401
        self._resize(consumer)
        _tell_events(consumer)

    def _resize(self, consumer: Any) -> None:  # noqa: ANN401
        """Celery's loop applies the number. If more messages are held, no new ones arrive."""
        more = self._wanted_chunks() - consumer.qos.value
        if more > 0:
            consumer.qos.increment_eventually(more)
        else:
            consumer.qos.decrement_eventually(-more)


def _tell_events(consumer: Any) -> None:  # noqa: ANN401  (Celery has no types)
    """Sends the events of the tasks since the last call, if there is a connection."""
    if consumer.event_dispatcher is not None:
        consumer.event_dispatcher.flush()
