"""`resnextq purge`, and DELETE of the HTTP API: deletes jobs that have ended, with their rows.

One statement marks a job. From then on no command finds it, and its key is free. Then its rows are
deleted in parts, by `purge` itself or by the leading dispatcher, which deletes every marked job. So
an interrupted purge completes anyway.

    from contract.database.engine import connect_database
    from contract.settings import load_settings
    from producer.jobs.purge import delete

    engine = connect_database(load_settings())
    delete(engine, "0b5f0c6a9d3e4f21")
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Engine, select

from contract.chunks.remove import rows_of
from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import jobs
from contract.database.waits import Database
from contract.errors import JobStateError
from producer.jobs.job import Job, find_job, lock_state, read_chosen, read_job
from producer.removal import Removal, Shrinking, mark, pause_after

ENDED: Final = ("completed", "cancelled", "expired")


@dataclass(frozen=True, kw_only=True)
class Which:
    """Which ended jobs to delete. Without conditions, all of them."""

    named: Collection[str] = ()
    """Ids, or first characters of ids."""
    older_s: float | None = None
    """Only jobs that ended at least so many seconds ago."""
    states: Collection[str] = ENDED


def choose(engine: Engine, which: Which) -> list[Job]:
    """The chosen jobs, the oldest first.

    Raises:
        UnknownJobError: a named job does not exist.
        JobStateError: a named job has not ended.
    """
    with reading(engine) as connection:
        named = [find_job(connection, name) for name in which.named]
        for job in named:
            check_ended(job)
        wanted = select(jobs).where(jobs.c.state.in_(which.states))
        if which.named:
            wanted = wanted.where(jobs.c.number.in_([job.number for job in named]))
        if which.older_s is not None:
            wanted = wanted.where(jobs.c.finished_at <= db_now(-which.older_s))
        return read_chosen(connection, wanted)[::-1]


def check_ended(job: Job) -> None:
    """Refuses a job that has not ended.

    Raises:
        JobStateError: the job has not ended.
    """
    if job.is_live:
        state = "paused" if job.paused_at is not None and job.state == "running" else job.state
        raise JobStateError(
            f"Job {job.id} is {state}, and only jobs that have ended can be deleted. Cancel it "
            f"first: `resnextq cancel {job.id}`, or POST /v1/jobs/{job.id}/cancel."
        )


def delete(engine: Engine, job: str) -> None:
    """Marks a job for deletion. No command finds it from now on; the dispatcher deletes its rows.

    Raises:
        UnknownJobError: no job matches, or more than one.
        JobStateError: the job has not ended.
    """
    with engine.begin() as connection:
        _mark(connection, find_job(connection, job))


def mark_as_read(engine: Engine, job: Job) -> None:
    """Marks a job whose results have just been written, unless it has changed since.

    Raises:
        UnknownJobError: the job has been deleted.
        JobStateError: the job has not ended, or has changed since.
    """
    with engine.begin() as connection:
        lock_state(connection, job.number)
        if read_job(connection, job.number).finished_at != job.finished_at:
            raise JobStateError(
                f"Job {job.id} has changed while its results were written: some of its images "
                "were retried. It was not deleted. Run the purge again."
            )
        _mark(connection, job)


def _mark(connection: Connection, job: Job) -> None:
    lock_state(connection, job.number)
    check_ended(read_job(connection, job.number))  # its state now, under the lock
    mark(connection, jobs.c.number == job.number)


@dataclass(frozen=True)
class Removed:
    """How a job was deleted."""

    rows: int
    parts: int
    longest_s: float
    """Seconds of the longest part. Other writers waited no longer than this."""


def expected_rows(engine: Engine, number: int) -> int:
    """Approximate number of rows that `remove` will delete."""
    with reading(engine) as connection:
        return rows_of(connection, number)


def remove(engine: Engine, number: int, advance: Callable[[int], object]) -> Removed:
    """Deletes a marked job's rows in parts, with pauses. Waits while the database is unavailable.

    Calls `advance` with the number of rows of each part.
    """
    database = Database(engine)
    removal = Removal(number, database.transact)
    rows = parts = 0
    while (some := removal.step()) is not None:
        rows, parts = rows + some, parts + 1
        advance(some)
        pause_after(database, removal.size.last_s)
    return Removed(rows, parts, removal.size.longest_s)


def shrink(engine: Engine, advance: Callable[[int], object]) -> int:
    """Cuts free pages off SQLite's file in parts, with pauses. Returns the number of bytes.

    Calls `advance` with the number of bytes of each part.
    """
    shrinking = Shrinking(engine)
    cut = 0
    while (some := shrinking.step()) is not None:
        cut += some
        advance(some)
        pause_after(Database(engine), shrinking.size.last_s)
    return cut
