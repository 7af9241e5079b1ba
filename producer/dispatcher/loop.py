"""`resnextq dispatch`: passes work from SQL to Redis and keeps the jobs' counts.

Every `dispatch_interval_s` it adds up what workers have stored, takes chunks back from dead
workers, stops jobs with too many failures, ends the rest of cancelled and expired jobs, deletes
removed jobs, drafts of killed submits and old thumbnails, takes back chunks that Redis has lost,
and publishes due chunks. The leader also sends notifications, in other threads. If the database or
Redis is unavailable, the loop waits. Of several dispatchers one leads and the others stand by.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from typing import Final

import redis.exceptions
from celery import Celery
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from contract.addresses import FetchAllow
from contract.broker.connection import check_broker, make_celery
from contract.database.address import database_address
from contract.database.engine import connect_database
from contract.log import log_as_set
from contract.metrics.exporter import exporting
from contract.settings import Settings
from producer.dispatcher.abandoned import Remains
from producer.dispatcher.count import fold
from producer.dispatcher.end import expire, settle, stop_failing
from producer.dispatcher.leader import TERM_S, TICKS_A_TERM, Leadership
from producer.dispatcher.metrics import DispatcherCollector, Metrics
from producer.dispatcher.old_thumbnails import OldThumbnails
from producer.dispatcher.publish import publish
from producer.dispatcher.reap import Reaper
from producer.dispatcher.unclaimed import Lost
from producer.notify.sender import Sender

log = logging.getLogger(__name__)

FIRST_WAIT_S: Final = 0.5
# Lost messages are found five seconds after Redis is back.
LONGEST_WAIT_S: Final = 4.0
# Shares of a tick. Cancelling a large job must not starve running ones.
SETTLE_SHARE: Final = 0.5
REMOVE_SHARE: Final = 0.1


def run_dispatcher(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT.

    Raises:
        UnavailableError: at the start, the database or Redis does not answer, or the port for
            metrics is taken.
    """
    log_as_set(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    engine = connect_database(settings)
    app = make_celery(settings)
    # The loop itself tries again, and keeps the counts meanwhile.
    at_once = {"max_retries": 1, "interval_start": 0}
    app.conf.broker_transport_options = app.conf.broker_transport_options | at_once
    check_broker(app)
    metrics = Metrics()
    try:
        with exporting(settings) as registry:
            registry.register(DispatcherCollector(metrics, engine, app, lease_s=settings.lease_s))
            log.info("ready: database %s", database_address(engine))
            Dispatcher(engine, app, settings, metrics).run(stop)
    finally:
        app.close()
        engine.dispose()


class Dispatcher:
    """The dispatcher's loop. It remembers only observations; all state is in SQL."""

    def __init__(
        self, engine: Engine, app: Celery, settings: Settings, metrics: Metrics | None = None
    ) -> None:
        self._engine = engine
        self._app = app
        self._settings = settings
        self._metrics = metrics or Metrics()
        self._reaper = Reaper(
            settings.lease_s,
            # Heartbeats come at least every fifth of the lease, so one before a pause remains
            # valid.
            pause_s=max(settings.lease_s / 2, 2 * settings.dispatch_interval_s),
        )
        self._lost = Lost()
        self._old_thumbnails = OldThumbnails(settings.thumbnails_days)
        self._remains = Remains()
        self._leadership = Leadership(max(TERM_S, TICKS_A_TERM * settings.dispatch_interval_s))
        self._leads = False
        self._sender: Sender | None = None
        self._database = Outage("The database", (DBAPIError,))
        self._redis = Outage("Redis", (BrokerError, redis.exceptions.RedisError, OSError))

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            began = time.monotonic()
            self.tick()
            reaches_database = not self._database.wait_s
            self._metrics.note_tick(
                time.monotonic() - began, leads=self._leads and reaches_database
            )
            self._notify(wanted=self._leads)
            left_s = began + self._settings.dispatch_interval_s - time.monotonic()
            stop.wait(self._database.wait_s or max(0.0, left_s))
        # First, since notifications in progress may take some seconds.
        self._database.holds(lambda: self._leadership.leave(self._engine))
        self._notify(wanted=False)

    def tick(self) -> None:
        """One round. The counts need no Redis and continue without it, at the same rate: after a
        pause the reaper would wait for a whole lease.
        """
        if not self._database.holds(self._ask_to_lead):
            self._reaper.forget()
            return
        if not self._leads:
            self._reaper.note_reached()
            return
        if not self._database.holds(self._keep_counts):
            self._reaper.forget()
            return
        if self._redis.is_due:
            self._database.holds(lambda: self._redis.holds(self._feed))

    def _ask_to_lead(self) -> None:
        self._leads = self._leadership.ask(self._engine)

    def _notify(self, *, wanted: bool) -> None:
        """Sends notifications while this dispatcher leads. If two send at once, each is sent only
        once.
        """
        if wanted and self._sender is None:
            self._sender = Sender(self._engine, FetchAllow.parse(self._settings.fetch_allow))
            self._sender.start()
        elif not wanted and self._sender is not None:
            self._sender.stop()
            self._sender = None

    def _keep_counts(self) -> None:
        fold(self._engine, when_stored=self._metrics.note_stored)
        self._metrics.note_reaped(self._reaper.reap(self._engine))
        expire(self._engine)
        stop_failing(self._engine)
        settle(self._engine, for_s=SETTLE_SHARE * self._settings.dispatch_interval_s)
        self._remains.remove(self._engine, REMOVE_SHARE * self._settings.dispatch_interval_s)
        self._old_thumbnails.delete(self._engine)

    def _feed(self) -> None:
        self._metrics.note_lost(self._lost.put_back(self._engine, self._app))
        self._metrics.note_published(publish(self._engine, self._app, self._settings))


class Outage:
    """Notes whether a server is available. Logs once when it goes away and once when it is back."""

    def __init__(self, what: str, errors: tuple[type[Exception], ...]) -> None:
        self._what = what
        self._errors = errors
        self._since = 0.0
        self._tried_at = 0.0
        self.wait_s = 0.0
        """Seconds between two tries. 0: the server is available."""

    @property
    def is_due(self) -> bool:
        """Whether it is time for a try."""
        return time.monotonic() - self._tried_at >= self.wait_s

    def holds(self, work: Callable[[], object]) -> bool:
        """Does the work. False if the server was unavailable."""
        try:
            work()
        except self._errors as error:
            self._note(error)
            return False
        if self.wait_s:
            log.info("%s is back after %.0f s", self._what, time.monotonic() - self._since)
        self.wait_s = 0.0
        return True

    def _note(self, error: Exception) -> None:
        if not self.wait_s:
            self._since = time.monotonic()
            lines = str(getattr(error, "orig", None) or error).strip().splitlines()
            reason = lines[0] if lines else type(error).__name__
            log.warning("%s does not answer; retrying: %s", self._what, reason)
        self.wait_s = min(2 * self.wait_s or FIRST_WAIT_S, LONGEST_WAIT_S)
        self._tried_at = time.monotonic()
