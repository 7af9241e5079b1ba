"""Transactions that outlast a database that is away: for whoever has work in hand.

A worker's claims and stores, and a submit once it has begun, are repeated until they are
committed. What goes is told once, and that it is back.
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
# Servers that stop, deadlocks, locks that others hold for too long, a pool that is empty.
PASSING: Final = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)
READ_ONLY: Final = "25006"
"""PostgreSQL's code."""

T = TypeVar("T")


class Database:
    """An engine, and whether its database is away at the moment. Safe for many threads."""

    def __init__(self, engine: Engine, *, waits_for_room: bool = True) -> None:
        """`waits_for_room`: a full disk is waited for as well. Not so by a submit: it is what
        would fill it, and whoever started it can be told.
        """
        self.engine = engine
        self._waits_for_room = waits_for_room
        self._lock = threading.Lock()
        self._away_since: float | None = None

    def transact(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, once its transaction is committed.

        `work` is repeated until then. It has to bear that an earlier try was committed
        although the answer was lost.
        """

        def once() -> T:
            with self.engine.begin() as connection:
                return work(connection)

        return self._repeat(once)

    def execute(self, work: Callable[[Connection], T]) -> T:
        """As `transact`, where `work` executes one statement; if it executes another, the first one
        may be committed already.
        """

        def once() -> T:
            with one_statement(self.engine) as connection:
                return work(connection)

        return self._repeat(once)

    def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, of a transaction that only reads."""

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
        """Whether it is worth another try: whatever else is wrong, a connection can be replaced."""
        if isinstance(error, exc.DBAPIError):
            if is_full(error) and not self._waits_for_room:
                return False
            # Of a server that is a replica for now, or whose host has no room left.
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
        log.warning("The database does not answer; trying on: %s", reason[0] if reason else error)

    def _note_back(self) -> None:
        if self._away_since is None:  # the usual case, without the lock
            return
        with self._lock:
            since, self._away_since = self._away_since, None
        if since is not None:
            log.info("The database is back after %.0f s.", time.monotonic() - since)


def _waits() -> Iterator[float]:
    """Doubled up to the longest, with jitter so that threads and workers spread."""
    wait_s = FIRST_WAIT_S
    while True:
        yield uniform(0.5, 1.0) * wait_s
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
