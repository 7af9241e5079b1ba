"""Deletes marked jobs, and jobs whose `submit` was killed.

The dispatcher calls `Remains.remove` once per tick. A submit without a heartbeat for an hour counts
as dead, and its draft is marked. All marked jobs, also those of `purge` and the HTTP API, are
deleted in short transactions. An SQLite file shrinks accordingly: see `producer.removal`.
"""

from __future__ import annotations

import logging
import time

from sqlalchemy import Engine, exists, select

from contract.database.engine import reading
from contract.database.tables import jobs
from producer.removal import Removal, Shrinking, marked_jobs, once
from producer.submit.draft import abandon_dead

log = logging.getLogger(__name__)


class Remains:
    """The removals in progress. A new instance can continue them."""

    def __init__(self) -> None:
        self._removals: dict[int, Removal] = {}
        self._shrinking: Shrinking | None = None

    def remove(self, engine: Engine, for_s: float) -> int:
        """Works for about `for_s` seconds. Returns how many drafts were marked."""
        until = time.monotonic() + for_s
        given_up = _give_up(engine)
        marked = marked_jobs(engine)
        self._removals = {n: self._removals.get(n) or Removal(n, once(engine)) for n in marked}
        for removal in self._removals.values():
            while time.monotonic() < until:
                if removal.step() is None:
                    self._shrinking = Shrinking(engine)
                    break
        while self._shrinking is not None and time.monotonic() < until:
            if self._shrinking.step() is None:
                self._shrinking = None
        return given_up


def _give_up(engine: Engine) -> int:
    """Marks the drafts whose submit is dead. Returns their number."""
    with reading(engine) as connection:
        drafts = exists().where(jobs.c.state == "submitting")
        if not connection.scalar(select(drafts)):
            return 0
    with engine.begin() as connection:
        dead = abandon_dead(connection)
    if dead:
        log.warning(
            "Removing %d unfinished jobs: their `submit` had no heartbeat for an hour", len(dead)
        )
    return len(dead)
