"""The worker's way to SQL: transactions that outlast a database that is away.

Every read and write of a running worker goes through `Database.transact`. A worker has
nothing better to do than to wait: what it has fetched and classified is stored once the
database is back, and no message is acknowledged before.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from random import uniform
from typing import Final, TypeVar

from sqlalchemy import Connection, Engine, exc

from contract.database import connect_database
from contract.settings import Settings

log = logging.getLogger(__name__)

# Claims and stores take milliseconds, so that many tasks share few connections; a fleet of workers
# has to stay below what a PostgreSQL server permits, by default 100.
TASK_CONNECTIONS: Final = 8
# The straggler keeper, the heartbeat, and one for what comes at the end.
OTHER_CONNECTIONS: Final = 3
FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 10.0
# Servers that stop, deadlocks, locks that others hold for too long, a pool that is empty.
PASSING: Final = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)

T = TypeVar("T")


def connect(settings: Settings) -> Engine:
    """An engine with so many connections, each made when it is first wanted.

    Raises:
        UnavailableError: the database does not answer, or its schema does not fit.
    """
    for_tasks = min(settings.chunks_in_flight, TASK_CONNECTIONS)
    return connect_database(settings, pool_size=for_tasks + OTHER_CONNECTIONS, max_overflow=0)


class Database:
    """An engine, and whether its database is away at the moment. Safe for many threads."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._lock = threading.Lock()
        self._away_since: float | None = None

    def transact(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, once its transaction is committed.

        `work` is repeated until then. It has to bear that an earlier try was committed
        although the answer was lost.
        """
        for wait_s in _waits():
            try:
                with self.engine.begin() as connection:
                    result = work(connection)
            except exc.SQLAlchemyError as error:
                if not _passes(error):
                    raise
                self._note_away(error)
                time.sleep(wait_s)
            else:
                self._note_back()
                return result
        raise AssertionError("waits never end")

    def _note_away(self, error: Exception) -> None:
        with self._lock:
            if self._away_since is not None:
                return
            self._away_since = time.monotonic()
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()
        log.warning("The database does not answer; trying on: %s", reason[0] if reason else error)

    def _note_back(self) -> None:
        if self._away_since is None:  # the usual case, without the lock
            return
        with self._lock:
            since, self._away_since = self._away_since, None
        if since is not None:
            log.info("The database is back after %.0f s.", time.monotonic() - since)


def _passes(error: exc.SQLAlchemyError) -> bool:
    """Whether it is worth another try: whatever else is wrong, a connection can be replaced."""
    broken = isinstance(error, exc.DBAPIError) and error.connection_invalidated
    return broken or isinstance(error, PASSING)


def _waits() -> Iterator[float]:
    """Doubled up to the longest, with jitter so that threads and workers spread."""
    wait_s = FIRST_WAIT_S
    while True:
        yield uniform(0.5, 1.0) * wait_s
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
