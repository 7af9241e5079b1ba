"""The beginning of a run: a chunk is claimed in SQL, or its message is dropped.

The task hands in a message; what comes back says which images are to run. A message is only a
notice: it may come twice, late, or after the job was cancelled, and then claims nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, exists, select, update

from contract import remaining
from contract.broker.message import ChunkMessage, MalformedMessage
from contract.database.clock import db_now
from contract.database.tables import chunk_uris, chunks, jobs
from contract.database.waits import Database
from worker.process.identity import Identity

log = logging.getLogger(__name__)

# A worker with other weights refuses the job: leave it time to reach one that fits.
FOREIGN_WEIGHTS_WAIT_S: Final = 30.0


@dataclass(frozen=True)
class Image:
    """What is fetched, and the submitter's own id of it."""

    uri: str
    ref: str | None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A chunk that is this worker's to run, and its images by position."""

    message: ChunkMessage
    attempt: int
    """Which run this is of its images, from 1."""
    first_position: int
    images: dict[int, Image]
    others: frozenset[int] = frozenset()
    """The chunk's further positions that are not settled, where one image of it runs alone."""
    queue_wait_s: float | None = None
    """From its publication to this claim, by the database's clock; None: it does not say."""

    def __str__(self) -> str:
        return str(self.message)


IN_GENERATION: Final = (
    chunks.c.job_number == bindparam("the_job"),
    chunks.c.chunk == bindparam("the_chunk"),
    chunks.c.generation == bindparam("the_generation"),
)
"""A chunk, as long as nobody has published it anew."""


def generation_of(message: ChunkMessage) -> dict[str, Any]:
    """What `IN_GENERATION` is asked with."""
    return {
        "the_job": message.job_number,
        "the_chunk": message.chunk,
        "the_generation": message.generation,
    }


# Everything a claim needs, in one statement: each statement costs as much as several images.
# Built once: building a statement costs more than executing it.
# The subqueries compare with parameters and not with `chunks`: SQLAlchemy renders RETURNING on
# SQLite without table names, so that `chunk_uris.chunk = chunks.chunk` became `chunk = chunk`,
# which is true of every row.
_KNOWN: Final = (
    chunks.c.attempt,
    chunks.c.first_position,
    chunks.c.remaining,
    chunks.c.published_at,
    db_now().label("claimed_at"),
    select(jobs.c.weights_sha256)
    .where(jobs.c.number == bindparam("the_job"))
    .scalar_subquery()
    .label("weights_sha256"),
    select(chunk_uris.c.refs)
    .where(
        chunk_uris.c.job_number == bindparam("the_job"),
        chunk_uris.c.chunk == bindparam("the_chunk"),
    )
    .scalar_subquery()
    .label("refs"),
)
_Taken = Row[int, int, bytes, datetime | None, datetime, str | None, Sequence[str | None] | None]
_TAKE: Final = (
    update(chunks)
    .where(
        *IN_GENERATION,
        chunks.c.state == "queued",
        exists().where(
            jobs.c.number == chunks.c.job_number,
            jobs.c.state == "running",
            # Model, weights and precision, machines' folders aside.
            jobs.c.queue == bindparam("the_queue"),
        ),
    )
    .values(state="running", worker=bindparam("the_worker"), attempt=chunks.c.attempt + 1)
    .returning(*_KNOWN)
)
_BEGIN_ALONE: Final = (
    update(chunks)
    .where(*IN_GENERATION, chunks.c.state == "running", chunks.c.worker == bindparam("the_worker"))
    .values(alone_offset=bindparam("the_offset"), alone_generation=chunks.c.generation)
)
_TAKEN_BEFORE: Final = select(*_KNOWN).where(
    *IN_GENERATION, chunks.c.state == "running", chunks.c.worker == bindparam("the_worker")
)


def claim(database: Database, identity: Identity, message: ChunkMessage) -> Claim | None:
    """Takes the message's chunk for this worker; None if it is not to be had.

    Raises:
        MalformedMessage: the message names other images than SQL does; nothing is claimed.
    """
    tries = count()

    def work(connection: Connection) -> Claim | None:
        again = next(tries) > 0
        row = _take(connection, identity, message)
        if row is None and again:
            row = _taken_before(connection, identity, message)
        if row is None or not _serves(connection, identity, message, row):
            return None
        return _claimed(message, row)

    claimed = database.transact(work)
    if claimed is None:
        log.debug("%s: not to be claimed; its message is dropped", message)
    return claimed


def begin_alone(database: Database, identity: Identity, claimed: Claim) -> None:
    """Notes that the claim's one image runs, and that from now on nothing else does."""
    (position,) = claimed.images
    noted = {"the_worker": identity.worker, "the_offset": position - claimed.first_position}
    database.transact(
        lambda connection: connection.execute(_BEGIN_ALONE, generation_of(claimed.message) | noted)
    )


def _take(connection: Connection, identity: Identity, message: ChunkMessage) -> _Taken | None:
    here = {"the_worker": identity.worker, "the_queue": identity.queue}
    return connection.execute(_TAKE, generation_of(message) | here).one_or_none()


def _taken_before(
    connection: Connection, identity: Identity, message: ChunkMessage
) -> _Taken | None:
    """An earlier try's claim, whose commit was not reported.

    Should it be another thread's instead, both run it and one of them stores it.
    """
    here = {"the_worker": identity.worker}
    return connection.execute(_TAKEN_BEFORE, generation_of(message) | here).one_or_none()


def _serves(connection: Connection, identity: Identity, message: ChunkMessage, row: _Taken) -> bool:
    """Whether the job is classified with this worker's weights; the first claim decides."""
    pinned = row.weights_sha256 or _pin(connection, identity, message)
    if pinned == identity.weights_sha256:
        return True
    log.error(
        "Job %s began with weights of SHA-256 %s; this worker's are %s under the same name. "
        "Its chunk goes back: start this worker with the same file, or submit the job again.",
        message.job,
        pinned,
        identity.weights_sha256,
    )
    connection.execute(
        update(chunks)
        .where(*IN_GENERATION)
        .values(
            state="pending",
            worker=None,
            attempt=row.attempt - 1,
            due_at=db_now(FOREIGN_WEIGHTS_WAIT_S),
        ),
        generation_of(message),
    )
    return False


def _pin(connection: Connection, identity: Identity, message: ChunkMessage) -> str | None:
    """The job's weights from now on: this worker's, if no other is claiming of it as well."""
    of_job = jobs.c.number == message.job_number
    connection.execute(
        update(jobs)
        .where(of_job, jobs.c.weights_sha256.is_(None))
        .values(weights_sha256=identity.weights_sha256)
    )
    return connection.scalar(select(jobs.c.weights_sha256).where(of_job))


def _claimed(message: ChunkMessage, row: _Taken) -> Claim:
    left = {row.first_position + offset for offset in remaining.decode(row.remaining)}
    others = left.difference(message.positions)
    if not left.issuperset(message.positions) or (others and not message.alone):
        raise MalformedMessage(f"{message} names other images than SQL does")
    return Claim(
        message=message,
        attempt=row.attempt,
        first_position=row.first_position,
        images={
            position: Image(uri, row.refs[position - row.first_position] if row.refs else None)
            for position, uri in zip(message.positions, message.uris, strict=True)
        },
        others=frozenset(others),
        queue_wait_s=_seconds_between(row.published_at, row.claimed_at),
    )


def _seconds_between(begin: datetime | None, end: datetime) -> float | None:
    """Never below 0: a database that was moved to another machine has another clock."""
    return None if begin is None else max(0.0, (end - begin).total_seconds())
