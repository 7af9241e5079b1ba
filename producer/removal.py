"""Removes jobs: one statement marks a job, then short transactions delete it.

`producer.jobs.purge` marks the jobs that people delete, `producer.submit.draft` what an interrupted
submit left. Both then delete the marked jobs at once. The leading dispatcher deletes every
marked job, so an interrupted removal continues. Two processes may remove the same job.

Each part is as large as can be deleted in `PART_S`. After it comes a pause in which others write.
While other jobs run, the pause is nine times as long as the part.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

from sqlalchemy import ColumnElement, Connection, Engine, exists, select, update

from contract.chunks.remove import ABANDONED, Place, is_marked, remove_some
from contract.database.engine import reading
from contract.database.space import can_shrink, free_bytes, give_back_some, write_back
from contract.database.tables import jobs
from contract.database.waits import Database

PART_S: Final = 0.025
"""Target length of a transaction, in seconds. Others wait for tens of milliseconds at most."""
FIRST_ROWS: Final = 256
"""The first and smallest part. A part must not take longer to begin than to delete."""
MOST_ROWS: Final = 20_000
MOST_PAGES: Final = 8_192
# Shares of the time spent deleting. SQLite has only one writer at once, and waiting writers poll
# for the lock. Without pauses, they would find a gap only by chance.
ALONE: Final = 0.5
BESIDE_OTHERS: Final = 0.1


class Transact(Protocol):
    """`Database.transact`, or `once`."""

    def __call__(self, work: Callable[[Connection], Place | None], /) -> Place | None: ...


def once(engine: Engine) -> Transact:
    """Transactions that fail if the database is unavailable."""

    def transact(work: Callable[[Connection], Place | None], /) -> Place | None:
        with engine.begin() as connection:
            return work(connection)

    return transact


class Size:
    """How many rows or pages one part deletes, adjusted so that a part takes PART_S."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.now = FIRST_ROWS
        self.last_s = self.longest_s = 0.0
        """Seconds that the last part took, and the longest part so far."""

    def learn(self, seconds: float) -> None:
        self.last_s, self.longest_s = seconds, max(self.longest_s, seconds)
        factor = min(2.0, max(0.25, PART_S / max(seconds, 1e-6)))
        self.now = max(FIRST_ROWS, min(self._most, int(self.now * factor)))

    def forget(self) -> None:
        """Start small again: rows of the next table may be a hundred times as large."""
        self.now = FIRST_ROWS


class Removal:
    """Deletes one marked job. Its state only saves work: a new instance can go on with the job."""

    def __init__(self, number: int, transact: Transact) -> None:
        self._number = number
        self._transact = transact
        self._place = Place()
        self.size = Size(MOST_ROWS)

    def step(self) -> int | None:
        """Deletes a part in one transaction. Returns its number of rows; None: nothing is left."""
        began = 0.0

        def work(connection: Connection) -> Place | None:
            nonlocal began
            began = time.monotonic()  # the time before this was spent waiting for SQLite's lock
            return remove_some(connection, self._number, self._place, most=self.size.now)

        place = self._transact(work)
        self.size.learn(time.monotonic() - began)
        if place is None:
            return None
        if place.table != self._place.table:
            self.size.forget()
        self._place = place
        return place.rows


class Shrinking:
    """Cuts free pages off SQLite's file, part by part. PostgreSQL needs no shrinking."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._free = free_bytes(engine) if can_shrink(engine) else 0
        self.size = Size(MOST_PAGES)

    def step(self) -> int | None:
        """Cuts off a part. Returns the number of bytes, or None if nothing is left."""
        if not self._free:
            return None
        self.size.learn(give_back_some(self._engine, self.size.now))
        before, self._free = self._free, free_bytes(self._engine)
        if not 0 < self._free < before:
            write_back(self._engine)
        return before - self._free if self._free < before else None


def mark(connection: Connection, which: ColumnElement[bool]) -> list[int]:
    """Hides these jobs from all commands and workers, and free their keys.

    Returns:
        The jobs' numbers.
    """
    values = {"state": ABANDONED, "key": None, "notify_url": None, "notify_secret": None}
    marked = update(jobs).where(which).values(**values).returning(jobs.c.number)
    return list(connection.scalars(marked))


def marked_jobs(engine: Engine) -> list[int]:
    """Numbers of marked jobs that are not deleted yet."""
    with reading(engine) as connection:
        statement = select(jobs.c.number).where(is_marked()).order_by(jobs.c.number)
        return list(connection.scalars(statement))


def pause_after(database: Database, seconds: float) -> None:
    """Lets others write after a part that took `seconds`."""
    share = BESIDE_OTHERS if database.read(_others_run) else ALONE
    time.sleep(max(seconds, 0.001) * (1 / share - 1))


def _others_run(connection: Connection) -> bool:
    live = jobs.c.state.in_(("submitting", "running")) & jobs.c.paused_at.is_(None)
    return bool(connection.scalar(select(exists().where(live))))
