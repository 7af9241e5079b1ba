"""The dashboard's addresses that answer otherwise than Flower's own.

`worker.commands.flower` adds them in front of Flower's. The dashboard shows and changes nothing:
what would change something is answered with what to do instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NoReturn

import redis.exceptions
from celery import Celery
from flower.api import BaseApiHandler
from flower.api.tasks import GetQueueLengths
from flower.views.broker import BrokerView
from flower.views.monitor import Metrics
from tornado.web import HTTPError, authenticated

from contract.broker.connection import CONNECT_TIMEOUT_S

SHOWS_ALONE: Final = (
    "This dashboard shows and changes nothing. "
    "To end a job: resnextq cancel. To stop a worker: SIGTERM. To send work: resnextq submit."
)
NO_RESULTS: Final = (
    "Results are in SQL: resnextq results JOB. /api/task/info/ID has what is known of a task."
)


class ClosedMetrics(Metrics):  # type: ignore[misc]  # Flower has no types
    """Flower's metrics name every worker: they are shown to those who have the login."""

    get = authenticated(Metrics.get)


class Refused(BaseApiHandler):  # type: ignore[misc]
    """Says what to do instead, to those who have the login."""

    def initialize(self, status: int, words: str) -> None:
        self._refusal = (status, words)

    @authenticated
    def get(self, *_: str) -> NoReturn:
        status, words = self._refusal
        # The words are given apart from the format, which a % in them would break.
        raise HTTPError(status, "%s", words)

    post = get


class QueueLengths:
    """Asks Redis as the program does, whatever its address looks like."""

    application: Any
    capp: Any

    def get_broker(self) -> QueueLengths:
        """Called by Flower where it would connect by itself."""
        return self

    async def queues(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """
        Raises:
            HTTPError: Redis does not answer (503).
        """
        found: list[dict[str, Any]] = await self.application.blocking_runner.run(
            "broker.queues",
            "broker",
            lambda: queue_lengths(self.capp, list(names)),
            connection_errors=(redis.exceptions.RedisError,),
        )
        return found


def queue_lengths(app: Celery, names: Iterable[str]) -> list[dict[str, Any]]:
    """Over a connection of its own: Flower waits for replies over those of the app's pool.

    Raises:
        OperationalError: Redis does not answer.
    """
    with app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=CONNECT_TIMEOUT_S)
        client = connection.default_channel.client
        return [{"name": name, "messages": client.llen(name)} for name in names]


class BrokerPage(QueueLengths, BrokerView):  # type: ignore[misc]
    """The page of the queues."""


class QueueLengthsApi(QueueLengths, GetQueueLengths):  # type: ignore[misc]
    """The same as JSON."""


HANDLERS: Final = [
    ("/metrics", ClosedMetrics),
    ("/broker", BrokerPage),
    ("/api/queues/length", QueueLengthsApi),
    (r"/api/worker/(.+)", Refused, {"status": 403, "words": SHOWS_ALONE}),
    (
        r"/api/task/(?:apply|async-apply|send-task|abort|timeout|rate-limit|revoke)/(.+)",
        Refused,
        {"status": 403, "words": SHOWS_ALONE},
    ),
    (r"/api/task/result/(.+)", Refused, {"status": 404, "words": NO_RESULTS}),
]
