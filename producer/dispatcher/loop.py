"""`resnextq dispatch`: the relay from SQL to Redis, and the keeper of the jobs' counts.

Every `dispatch_interval_s`: fold what workers have stored, take back what dead workers ran, stop
jobs of which too much fails, settle what is left of jobs that were cancelled or have expired,
remove what killed submits have left, take back what Redis has lost, publish what is due. Beside it
the leader sends notifications. A database or a Redis that is away is waited for. Of several
dispatchers one leads, and the others stand by.
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
from contract.log import log_lines
from contract.settings import Settings
from producer.dispatcher.abandoned import remove_abandoned
from producer.dispatcher.count import fold
from producer.dispatcher.end import expire, settle, stop_failing
from producer.dispatcher.leader import TERM_S, TICKS_A_TERM, Leadership
from producer.dispatcher.publish import publish
from producer.dispatcher.reap import Reaper
from producer.dispatcher.unclaimed import Lost
from producer.notify.sender import Sender

log = logging.getLogger(__name__)

FIRST_WAIT_S: Final = 0.5
# What was lost with Redis is known to be so five seconds after it is back.
LONGEST_WAIT_S: Final = 4.0
# Of a tick: a large job that was cancelled is not to starve those that run.
SETTLE_SHARE: Final = 0.5
REMOVE_SHARE: Final = 0.1


def run_dispatcher(settings: Settings) -> None:
    """Returns after SIGTERM or SIGINT.

    Raises:
        UnavailableError: at the start, database or Redis are not there.
    """
    log_lines(settings.log_level)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    engine = connect_database(settings)
    app = make_celery(settings)
    # It goes on with the counts meanwhile, and tries again itself.
    at_once = {"max_retries": 1, "interval_start": 0}
    app.conf.broker_transport_options = app.conf.broker_transport_options | at_once
    check_broker(app)
    log.info("ready: database %s", database_address(engine))
    try:
        Dispatcher(engine, app, settings).run(stop)
    finally:
        app.close()
        engine.dispose()


class Dispatcher:
    """The loop; what it remembers between ticks is only what it has seen, never what is so."""

    def __init__(self, engine: Engine, app: Celery, settings: Settings) -> None:
        self._engine = engine
        self._app = app
        self._settings = settings
        self._reaper = Reaper(
            settings.lease_s,
            # A heartbeat comes within a fifth of the lease: one before a pause outlasts it.
            pause_s=max(settings.lease_s / 2, 2 * settings.dispatch_interval_s),
        )
        self._lost = Lost()
        self._leadership = Leadership(max(TERM_S, TICKS_A_TERM * settings.dispatch_interval_s))
        self._leads = False
        self._sender: Sender | None = None
        self._database = Outage("The database", (DBAPIError,))
        self._redis = Outage("Redis", (BrokerError, redis.exceptions.RedisError, OSError))

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            began = time.monotonic()
            self.tick()
            self._notify(wanted=self._leads)
            left_s = began + self._settings.dispatch_interval_s - time.monotonic()
            stop.wait(self._database.wait_s or max(0.0, left_s))
        # First, since what is being sent may take some seconds.
        self._database.holds(lambda: self._leadership.leave(self._engine))
        self._notify(wanted=False)

    def tick(self) -> None:
        """The counts need no Redis: they go on without it, as often as ever, since the reaper
        judges nobody after a pause.
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
        """Whoever leads sends notifications; what two of them send at once is sent once."""
        if wanted and self._sender is None:
            self._sender = Sender(self._engine, FetchAllow.parse(self._settings.fetch_allow))
            self._sender.start()
        elif not wanted and self._sender is not None:
            self._sender.stop()
            self._sender = None

    def _keep_counts(self) -> None:
        fold(self._engine)
        self._reaper.reap(self._engine)
        expire(self._engine)
        stop_failing(self._engine)
        settle(self._engine, for_s=SETTLE_SHARE * self._settings.dispatch_interval_s)
        remove_abandoned(self._engine, for_s=REMOVE_SHARE * self._settings.dispatch_interval_s)

    def _feed(self) -> None:
        self._lost.put_back(self._engine, self._app)
        publish(self._engine, self._app, self._settings)


class Outage:
    """Whether a server is away: said once when it goes, once when it is back."""

    def __init__(self, what: str, errors: tuple[type[Exception], ...]) -> None:
        self._what = what
        self._errors = errors
        self._since = 0.0
        self._tried_at = 0.0
        self.wait_s = 0.0
        """Between two tries; 0 while all is well."""

    @property
    def is_due(self) -> bool:
        """Whether to try, or to try again."""
        return time.monotonic() - self._tried_at >= self.wait_s

    def holds(self, work: Callable[[], object]) -> bool:
        """Does the work; False if the server was away."""
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
            log.warning("%s does not answer; trying on: %s", self._what, reason)
        self.wait_s = min(2 * self.wait_s or FIRST_WAIT_S, LONGEST_WAIT_S)
        self._tried_at = time.monotonic()
