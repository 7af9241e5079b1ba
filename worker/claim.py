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

from sqlalchemy import Connection, Row, exists, select, update

from contract import remaining
from contract.clock import db_now
from contract.message import ChunkMessage, MalformedMessage
from contract.tables import chunk_uris, chunks, jobs
from worker.database import Database
from worker.registration import Identity

log = logging.getLogger(__name__)

# A worker with other weights refuses the job: leave it time to reach one that fits.
FOREIGN_WEIGHTS_WAIT_S: Final = 30.0


Taken = Row[int, int, bytes, datetime | None, datetime]
# Read by the statement that claims: when it was published and what time it is cost no other.
_TAKEN: Final = (
    chunks.c.attempt,
    chunks.c.first_position,
    chunks.c.remaining,
    chunks.c.published_at,
    db_now().label("claimed_at"),
)


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
    queue_wait_s: float | None = None
    """From its publication to this claim, by the database's clock; None: it does not say."""

    def __str__(self) -> str:
        return str(self.message)


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
        return _claimed(connection, message, row)

    claimed = database.transact(work)
    if claimed is None:
        log.debug("%s: not to be claimed; its message is dropped", message)
    return claimed


def _take(connection: Connection, identity: Identity, message: ChunkMessage) -> Taken | None:
    served = exists().where(
        jobs.c.number == chunks.c.job_number,
        jobs.c.state == "running",
        jobs.c.queue == identity.queue,  # model, weights and precision, machines' folders aside
    )
    return connection.execute(
        update(chunks)
        .where(*_generation_of(message), chunks.c.state == "queued", served)
        .values(state="running", worker=identity.worker, attempt=chunks.c.attempt + 1)
        .returning(*_TAKEN)
    ).one_or_none()


def _taken_before(
    connection: Connection, identity: Identity, message: ChunkMessage
) -> Taken | None:
    """An earlier try's claim, whose commit was not reported.

    Should it be another thread's instead, both run it and one of them stores it.
    """
    return connection.execute(
        select(*_TAKEN).where(
            *_generation_of(message),
            chunks.c.state == "running",
            chunks.c.worker == identity.worker,
        )
    ).one_or_none()


def _generation_of(message: ChunkMessage) -> tuple[Any, ...]:
    return (
        chunks.c.job_number == message.job_number,
        chunks.c.chunk == message.chunk,
        chunks.c.generation == message.generation,
    )


def _serves(connection: Connection, identity: Identity, message: ChunkMessage, row: Taken) -> bool:
    """Whether the job is classified with this worker's weights; the first claim decides."""
    connection.execute(
        update(jobs)
        .where(jobs.c.number == message.job_number, jobs.c.weights_sha256.is_(None))
        .values(weights_sha256=identity.weights_sha256)
    )
    pinned = connection.scalar(
        select(jobs.c.weights_sha256).where(jobs.c.number == message.job_number)
    )
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
        .where(*_generation_of(message))
        .values(
            state="pending",
            worker=None,
            attempt=row.attempt - 1,
            due_at=db_now(FOREIGN_WEIGHTS_WAIT_S),
        )
    )
    return False


def _claimed(connection: Connection, message: ChunkMessage, row: Taken) -> Claim:
    positions = [row.first_position + offset for offset in remaining.decode(row.remaining)]
    if sorted(message.positions) != positions:
        raise MalformedMessage(f"{message} names other images than SQL does")
    refs = _refs(connection, message)
    return Claim(
        message=message,
        attempt=row.attempt,
        first_position=row.first_position,
        images={
            position: Image(uri, refs[position - row.first_position] if refs else None)
            for position, uri in zip(message.positions, message.uris, strict=True)
        },
        queue_wait_s=_seconds_between(row.published_at, row.claimed_at),
    )


def _seconds_between(begin: datetime | None, end: datetime) -> float | None:
    """Never below 0: a database that was moved to another machine has another clock."""
    return None if begin is None else max(0.0, (end - begin).total_seconds())


def _refs(connection: Connection, message: ChunkMessage) -> Sequence[str | None] | None:
    refs: Sequence[str | None] | None = connection.scalar(
        select(chunk_uris.c.refs).where(
            chunk_uris.c.job_number == message.job_number, chunk_uris.c.chunk == message.chunk
        )
    )
    return refs
