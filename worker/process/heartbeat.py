"""A worker's row in `workers`: that it lives, how fast it is, and whether it stops.

The dispatcher takes a worker whose heartbeat is older than the lease for dead, and sizes its
window by the rates. One row a worker, not a chunk, however many of those it runs.
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

# So many heartbeats may be missed before the lease is over.
BEATS_PER_LEASE: Final = 5
LONGEST_BEAT_S: Final = 5.0


class Presence:
    """Owns the row, from `start` to `close`."""

    def __init__(
        self,
        database: Database,
        identity: Identity,
        *,
        lease_s: float,
        images_per_s: Callable[[], float],
        after_beat: Callable[[], object] = lambda: None,
    ) -> None:
        """`after_beat` is called after each heartbeat, and may ask the database as well."""
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
        """The row is there when this returns."""
        self._database.transact(self._beat)
        self._thread.start()

    def announce_stop(self) -> None:
        """With the next heartbeat, which comes at once."""
        self._stopping = True
        self._wake.set()

    def close(self) -> None:
        """Deletes the row: nothing is in this worker's hands any more."""
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
                log.exception("The heartbeat failed; trying on.")

    def _beat(self, connection: Connection) -> None:
        """The row may be missing, and not only at first: who was taken for dead comes back."""
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
