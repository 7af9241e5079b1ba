"""Deletes all rows of a job, in parts that do not delay other jobs.

`producer.removal` calls this for `purge`, for the dispatcher and for an interrupted submit.
First the job is marked: its state becomes `abandoned`, so no worker claims its chunks and no
command finds it. Chunks are deleted before results, because a worker stores nothing for a chunk
that is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, Connection, Table, delete, func, select, update

from contract.database.tables import chunk_uris, chunks, jobs, metadata, notifications

ABANDONED: Final = "abandoned"
"""The state of a marked job."""


def _belongs_to_a_job(table: Table) -> bool:
    return any(key.column is jobs.c.number for key in table.foreign_keys)


TABLES: Final = (
    chunks,
    chunk_uris,
    *(
        table
        for table in metadata.sorted_tables
        if _belongs_to_a_job(table) and table not in {chunks, chunk_uris}
    ),
)
"""Every table whose rows belong to a job by its number, found by the foreign key."""
# Rows that belong to a job by its id, without a foreign key.
BY_ID: Final = (notifications,)


@dataclass(frozen=True)
class Place:
    """How far a removal is: everything before this place is deleted."""

    table: int = 0
    """Index in `TABLES`."""
    after: Any = None
    """The last deleted key; None: nothing in this table is deleted."""
    before: Any = None
    """The last deleted key when the previous part began. See `_delete_rows`."""
    rows: int = 0
    """Rows that the previous part deleted."""


def is_marked() -> ColumnElement[bool]:
    """Whether the job has something to delete. An empty row that SQLite keeps does not count."""
    newest = select(func.max(jobs.c.number)).scalar_subquery()
    return (jobs.c.state == ABANDONED) & ((jobs.c.queue != "") | (jobs.c.number < newest))


def rows_of(connection: Connection, job_number: int) -> int:
    """Estimates how many rows a removal deletes, without counting all rows."""
    settled = select(jobs.c.classified + jobs.c.failed).where(jobs.c.number == job_number)
    highest = select(func.max(chunks.c.chunk)).where(chunks.c.job_number == job_number)
    return int(connection.scalar(settled) or 0) + 2 * (1 + int(connection.scalar(highest) or 0))


def remove_some(
    connection: Connection, job_number: int, place: Place, *, most: int
) -> Place | None:
    """Deletes up to `most` rows of a marked job, or a few more if rows share a key. The last part
    also deletes the job's own row.

    Each place is a valid start, because existing rows are always found. A later place saves
    PostgreSQL from scanning rows that are already deleted.

    Returns:
        Where the next part begins; None if nothing is left, or if the job is not marked.
    """
    marked = select(jobs.c.id).where(jobs.c.number == job_number, jobs.c.state == ABANDONED)
    job_id = connection.scalar(marked.with_for_update())
    if job_id is None:
        return None
    for number in range(place.table, len(TABLES)):
        here = place if number == place.table else Place(number)
        last, rows = _delete_rows(connection, TABLES[number], job_number, here, most)
        if rows:
            after = here.after if last is None else last
            return Place(number, after=after, before=here.after, rows=rows)
        if here.after is not None:
            return Place(number + 1)  # the next table's rows may need a smaller part
    for table in BY_ID:
        connection.execute(delete(table).where(table.c.job_id == job_id))
    _delete_job(connection, job_number)
    return None


def _delete_rows(
    connection: Connection,
    table: Table,
    job_number: int,
    place: Place,
    most: int,
) -> tuple[Any, int]:
    """Deletes rows of one table; returns the last deleted key (None if no row is left) and how many
    rows it deleted.

    The DELETE begins where the previous one began. PostgreSQL marks an index entry as dead only
    when a later scan comes past it. Otherwise the DELETE of the job's row, whose foreign keys
    search all tables, would do this for all rows in one transaction.
    """
    key = _key_of(table)
    wanted = table.c.job_number == job_number
    rest = wanted if place.after is None else wanted & (key > place.after)
    last = connection.scalar(select(key).where(rest).order_by(key).offset(most - 1).limit(1))
    if place.before is not None:
        wanted &= key > place.before
    if last is not None:
        wanted &= key <= last
    return last, connection.execute(delete(table).where(wanted)).rowcount


def _key_of(table: Table) -> Column[Any]:
    """The column that tells a job's rows apart: the first other column of the primary key."""
    return next(column for column in table.primary_key if column is not table.c.job_number)


def _delete_job(connection: Connection, job_number: int) -> None:
    """Deletes the job's row or, on SQLite, empties it if the job is the newest one.

    SQLite would give the newest job's number to the next job. A worker that was suspended for long
    may still hold a chunk with that number, and would store its images in the next job. So the
    empty row stays until there is a newer job, unless the job never had a chunk.
    """
    of_job = jobs.c.number == job_number
    if connection.dialect.name == "sqlite" and connection.scalar(
        select(jobs.c.number).where(
            of_job,
            (jobs.c.total > 0) | (jobs.c.queue == ""),
            jobs.c.number == select(func.max(jobs.c.number)).scalar_subquery(),
        )
    ):
        connection.execute(update(jobs).where(of_job).values(**_EMPTY))
        return
    if connection.dialect.name == "postgresql":
        # The foreign keys look for this job's rows in all tables. PostgreSQL's statistics still
        # count the rows that are deleted, so it would read a whole table instead of its index.
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")  # it marks no entry as dead
    connection.execute(delete(jobs).where(of_job))


_EMPTY: Final[dict[str, Any]] = {
    "owner": "",
    "name": None,
    "queue": "",
    "total": 0,
    "classified": 0,
    "failed": 0,
    "errors": {},
    "images_digest": None,
}
