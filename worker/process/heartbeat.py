"""A worker's row in `workers`: its heartbeat, its rate, and whether it is stopping.

The dispatcher considers a worker dead if its heartbeat is older than the lease, and computes its
window from the rates. There is one row per worker, however many chunks it runs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, delete, insert, update

from contract import VERSION
from contract.database.clock import db_now
from contract.database.tables import workers
from contract.database.waits import Database
from worker.process.identity import Identity

log = logging.getLogger(__name__)

# A worker sends this many heartbeats during a lease.
BEATS_PER_LEASE: Final = 5
LONGEST_BEAT_S: Final = 5.0


class Presence:
    """Owns the worker's row from `start` to `close`."""

    def __init__(
        self,
        database: Database,
        identity: Identity,
        *,
        lease_s: float,
        images_per_s: Callable[[], float],
        after_beat: Callable[[], object] = lambda: None,
    ) -> None:
        """Calls `after_beat` after each heartbeat; it may use the database."""
        self._database = database
        self._identity = identity
        self._beat_s = min(lease_s / BEATS_PER_LEASE, LONGEST_BEAT_S)
        self._images_per_s = images_per_s
        self._after_beat = after_beat
        self._stopping = False
        self._closed = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        """Inserts the row, and starts the heartbeat."""
        self._database.transact(self._beat)
        self._thread.start()

    def announce_stop(self) -> None:
        """Marks the row as stopping, with a heartbeat that is sent at once."""
        self._stopping = True
        self._wake.set()

    def close(self) -> None:
        """Deletes the row. The worker must hold no work any more."""
        self._closed.set()
        self._wake.set()
        self._thread.join()
        self._database.transact(
            lambda connection: connection.execute(
                delete(workers).where(workers.c.name == self._identity.worker)
            )
        )

    def _run(self) -> None:
        while not self._closed.is_set():
            self._wake.wait(self._beat_s)
            self._wake.clear()
            try:
                self._database.transact(self._beat)
                self._after_beat()
            except Exception:
                log.exception("The heartbeat failed; the worker will try again.")

    def _beat(self, connection: Connection) -> None:
        """Updates the row, or inserts it: the dispatcher deletes a worker that it thinks dead."""
        values: dict[str, Any] = {
            "images_per_s": self._images_per_s(),
            "heartbeat_at": db_now(),
            "stopping": self._stopping,
        }
        row = update(workers).where(workers.c.name == self._identity.worker)
        if connection.execute(row.values(values)).rowcount == 0:
            connection.execute(insert(workers).values(**values, **self._fixed()))

    def _fixed(self) -> dict[str, Any]:
        return {
            "name": self._identity.worker,
            "queue": self._identity.queue,
            "device": self._identity.device,
            "precision": self._identity.precision,
            "version": VERSION,
            "started_at": db_now(),
        }
