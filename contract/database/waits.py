"""Repeats transactions while the database does not answer.

A worker's claims and stores, and a submit that has begun, are repeated until they are committed.
The log says once that the database does not answer, and once that it is back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from random import uniform
from typing import Final, TypeVar

from sqlalchemy import Connection, Engine, exc

from contract.database.engine import is_full, one_statement, reading

log = logging.getLogger(__name__)

FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 10.0
# Servers that stop, deadlocks, locks that others hold for too long, an empty pool.
PASSING: Final = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)
READ_ONLY: Final = "25006"
"""PostgreSQL's code for a read-only transaction."""

T = TypeVar("T")


class Database:
    """An engine, and whether its database answers at the moment. Safe for many threads."""

    def __init__(self, engine: Engine, *, waits_for_room: bool = True) -> None:
        """`waits_for_room`: also wait while the disk is full. A submit does not: it would fill the
        disk itself, and it can tell its user.
        """
        self.engine = engine
        self._waits_for_room = waits_for_room
        self._lock = threading.Lock()
        self._away_since: float | None = None

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Returns the result of `work` once its transaction is committed.

        `work` is repeated until then. It must allow for an earlier try that was committed although
        its answer was lost.
        """

        def once() -> T:
            with self.engine.begin() as connection:
                return work(connection)

        return self._repeat(once)

    def execute(self, work: Callable[[Connection], T]) -> T:
        """Like `transact`, for `work` that executes one statement. If it executes a second one, the
        first may be committed already.
        """

        def once() -> T:
            with one_statement(self.engine) as connection:
                return work(connection)

        return self._repeat(once)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Returns the result of `work` in a transaction that only reads."""

        def once() -> T:
            with reading(self.engine) as connection:
                return work(connection)

        return self._repeat(once)

    def _repeat(self, once: Callable[[], T]) -> T:
        for wait_s in _waits():
            try:
                result = once()
            except exc.SQLAlchemyError as error:
                if not self._passes(error):
                    raise
                self._note_away(error)
                time.sleep(wait_s)
            else:
                self._note_back()
                return result
        raise AssertionError("waits never end")

    def _passes(self, error: exc.SQLAlchemyError) -> bool:
        """Whether another try can help. A lost connection can always be replaced."""
        if isinstance(error, exc.DBAPIError):
            if is_full(error) and not self._waits_for_room:
                return False
            # From a server that is a replica for now, or whose disk is full.
            is_read_only = getattr(error.orig, "sqlstate", None) == READ_ONLY
            if error.connection_invalidated or is_read_only:
                return True
        return isinstance(error, PASSING)

    def _note_away(self, error: Exception) -> None:
        with self._lock:
            if self._away_since is not None:
                return
            self._away_since = time.monotonic()
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()
        log.warning("The database does not answer; retrying: %s", reason[0] if reason else error)

    def _note_back(self) -> None:
        if self._away_since is None:  # the usual case, without the lock
            return
        with self._lock:
            since, self._away_since = self._away_since, None
        if since is not None:
            log.info("The database is back after %.0f s.", time.monotonic() - since)


def _waits() -> Iterator[float]:
    """Waits that double up to the longest, with jitter so that threads and workers spread."""
    wait_s = FIRST_WAIT_S
    while True:
        yield uniform(0.5, 1.0) * wait_s
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
