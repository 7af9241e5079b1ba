"""Chunks of dead workers: whoever has no heartbeat for `lease_s` has lost what it ran."""

from __future__ import annotations

import logging
import time

from sqlalchemy import Engine, delete, exists, select, update

from contract.clock import db_now
from contract.tables import chunks, workers

log = logging.getLogger(__name__)


class Reaper:
    """Judges only once it has reached the database for a whole lease itself: while that was
    away no worker could send a heartbeat either.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._reached_since: float | None = None

    def forget(self) -> None:
        """The database was away."""
        self._reached_since = None

    def reap(self, engine: Engine) -> int:
        """Makes the chunks of dead workers pending; returns how many there were."""
        now = time.monotonic()
        self._reached_since = self._reached_since or now
        if now - self._reached_since < self._lease_s:
            return 0
        alive = select(workers.c.name).where(workers.c.heartbeat_at > db_now(-self._lease_s))
        with engine.begin() as connection:
            reaped = connection.execute(
                update(chunks)
                .where(chunks.c.state == "running", chunks.c.worker.not_in(alive))
                .values(
                    state="pending",
                    due_at=db_now(),
                    worker=None,
                    deaths=chunks.c.deaths + 1,
                )
            ).rowcount
            connection.execute(
                delete(workers).where(
                    workers.c.heartbeat_at <= db_now(-self._lease_s),
                    ~exists().where(chunks.c.state == "running", chunks.c.worker == workers.c.name),
                )
            )
        if reaped:
            log.warning("A worker is dead: %d chunks that it ran go out again", reaped)
        return reaped
