"""Chunks of dead workers: whoever has no heartbeat for `lease_s` has lost what it ran.

So has at once whoever has crashed and was seen to. A run that was cut off counts as no attempt of
its images, and as a death of its chunk; what that means is for `producer.dispatcher.suspects` to
say.
"""

from __future__ import annotations

import logging
import time

from sqlalchemy import Connection, Engine, delete, exists, or_, select

from contract.chunks.reap import reap as reap_chunks
from contract.chunks.state import ChunkState
from contract.database.clock import db_now
from contract.database.tables import chunks, workers
from producer.dispatcher.suspects import count_crashes

log = logging.getLogger(__name__)


class Reaper:
    """Judges only once it has reached the database itself for a whole lease, never longer than
    `pause_s` apart: while that was away, or stood still, no worker could send a heartbeat either.
    """

    def __init__(self, lease_s: float, *, pause_s: float) -> None:
        self._lease_s = lease_s
        self._pause_s = pause_s
        self._reached_at = 0.0
        self._reached_since: float | None = None

    def forget(self) -> None:
        """The database was away."""
        self._reached_since = None

    def note_reached(self) -> None:
        """The database has answered, and another dispatcher leads: it counts for the lease."""
        self._may_judge()

    def reap(self, engine: Engine) -> int:
        """Makes the chunks of dead workers pending; returns how many there were."""
        if not self._may_judge():
            return 0
        with engine.begin() as connection:
            count_crashes(connection)
            reaped = self._take_back(connection)
            if not self._may_judge():  # it stood still before it answered
                connection.rollback()
                return 0
        if reaped:
            log.warning("A worker is dead: %d chunks that it ran go out again", reaped)
        return reaped

    def _may_judge(self) -> bool:
        """To be asked whenever the database has answered."""
        now = time.monotonic()
        if self._reached_since is None or now - self._reached_at > self._pause_s:
            self._reached_since = now
        self._reached_at = now
        return now - self._reached_since >= self._lease_s

    def _take_back(self, connection: Connection) -> int:
        beats = workers.c.heartbeat_at > db_now(-self._lease_s)
        alive = select(workers.c.name).where(beats, workers.c.crashed_by.is_(None))
        reaped = reap_chunks(connection, alive)
        gone = (
            select(workers.c.name)
            .where(
                or_(~beats, workers.c.crashed_by.is_not(None)),
                ~exists().where(
                    chunks.c.state == ChunkState.RUNNING, chunks.c.worker == workers.c.name
                ),
            )
            .with_for_update(skip_locked=True)
            .cte("gone")
        )
        connection.execute(delete(workers).where(workers.c.name.in_(select(gone))))
        return reaped
