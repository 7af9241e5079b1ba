"""Takes chunks back from dead workers, which had no heartbeat for `lease_s`.

A worker whose crash was seen by its parent counts as dead at once. An interrupted run does not
count as an attempt of its images, but as a death of its chunk. `producer.dispatcher.suspects`
decides what that means.
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
    """Judges only after it has reached the database for a whole lease, with gaps of at most
    `pause_s`. While the database was unavailable or stood still, workers could not send heartbeats
    either.
    """

    def __init__(self, lease_s: float, *, pause_s: float) -> None:
        self._lease_s = lease_s
        self._pause_s = pause_s
        self._reached_at = 0.0
        self._reached_since: float | None = None

    def forget(self) -> None:
        """Notes that the database was unavailable."""
        self._reached_since = None

    def note_reached(self) -> None:
        """Notes that the database has answered while another dispatcher leads. It counts for the
        lease.
        """
        self._may_judge()

    def reap(self, engine: Engine) -> int:
        """Makes the chunks of dead workers pending. Returns their number."""
        if not self._may_judge():
            return 0
        with engine.begin() as connection:
            count_crashes(connection)
            reaped = self._take_back(connection)
            if not self._may_judge():  # the database stood still before it answered
                connection.rollback()
                return 0
        if reaped:
            log.warning("A worker is dead. Publishing its %d chunks again", reaped)
        return reaped

    def _may_judge(self) -> bool:
        """Whether a whole lease has passed. Call it whenever the database has answered."""
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
