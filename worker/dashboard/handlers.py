"""Handlers that replace some of Flower's own.

`worker.commands.flower` adds them in front of Flower's. The dashboard only shows things. A request
that would change something gets an answer that says what to do instead.
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
from tornado.web import HTTPError, RequestHandler, authenticated

from contract.broker.connection import CONNECT_TIMEOUT_S
from worker.dashboard.shown import Styles

SHOWS_ALONE: Final = (
    "This dashboard only shows things and changes nothing. "
    "To end a job: resnextq cancel. To stop a worker: SIGTERM. To send work: resnextq submit."
)
NO_RESULTS: Final = (
    "Results are in SQL: resnextq results JOB. /api/task/info/ID shows what is known about a task."
)


class ClosedMetrics(Metrics):  # type: ignore[misc]  # Flower has no types
    """Flower's metrics, only for users with the login: they name every worker."""

    get = authenticated(Metrics.get)


class Refused(BaseApiHandler):  # type: ignore[misc]
    """Says what to do instead. Needs the login, as everything else does."""

    def initialize(self, status: int, words: str) -> None:
        self._refusal = (status, words)

    @authenticated
    def get(self, *_: str) -> NoReturn:
        status, words = self._refusal
        # As an argument, because a % in the words would break the format.
        raise HTTPError(status, "%s", words)

    post = get


class QueueLengths:
    """Reads the queues' lengths from Redis as our program does, with any form of address."""

    application: Any
    capp: Any

    def get_broker(self) -> QueueLengths:
        """Returns itself. Flower would connect to the broker here."""
        return self

    async def queues(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """Returns a name and a length for each queue, as Flower expects them.

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
    """Reads the lengths over its own connection: Flower waits for replies on the app's pool.

    Raises:
        OperationalError: Redis does not answer.
    """
    with app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=CONNECT_TIMEOUT_S)
        client = connection.default_channel.client
        return [{"name": name, "messages": client.llen(name)} for name in names]


class BrokerPage(QueueLengths, BrokerView):  # type: ignore[misc]
    """The page with the queues."""


class QueueLengthsApi(QueueLengths, GetQueueLengths):  # type: ignore[misc]
    """The queues as JSON."""


class Front(RequestHandler):
    """The front page, without a slash at the end of its address."""

    def get(self) -> None:
        self.redirect(f"{self.request.path}/")


def handlers(prefix: str) -> list[Any]:
    """The handlers that come before Flower's own, below a path such as `/flower`."""
    below = [(f"{prefix}{path}", *rest) for path, *rest in HANDLERS]
    return [*below, (prefix, Front)] if prefix else below


HANDLERS: Final = [
    ("/static/css/flower.css", Styles),
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
