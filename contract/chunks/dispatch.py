"""The dispatcher's moves for waiting chunks: publish, and take back unclaimed ones."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from math import ceil
from typing import Any

from sqlalchemy import Column, Connection, Row, Select, func, select, tuple_, update

from contract.chunks.state import ChunkState
from contract.database.clock import db_now
from contract.database.tables import chunk_uris, chunks, jobs


def due(job_number: Column[int] | int, *, most: int) -> Select[tuple[int, int]]:
    """Due chunks of a job, with their counts of images, in the order of publication.

    The order is random, because neighbours in a crawl share a host.
    """
    return (
        select(chunks.c.chunk, chunks.c.remaining_images)
        .where(
            chunks.c.job_number == job_number,
            chunks.c.state == ChunkState.PENDING,
            chunks.c.due_at <= db_now(),
        )
        .order_by(chunks.c.shuffle)
        .limit(most)
    )


def publish(
    connection: Connection, job_number: int, images: float, *, most: int
) -> tuple[datetime, Sequence[Row[Any]]]:
    """Queues due chunks with about `images` images in all; the last chunk may exceed that.

    Returns:
        The time of publication, and the chunks in the order of `shuffle`.
    """
    now = connection.scalar(select(db_now()))
    assert now is not None  # noqa: S101  (a clock always answers)
    chosen = list[int]()
    for row in connection.execute(due(job_number, most=min(ceil(images), most))):
        if images <= 0:
            break
        chosen.append(row.chunk)
        images -= row.remaining_images
    return now, _queue(connection, job_number, chosen, now) if chosen else ()


def _queue(
    connection: Connection, job_number: int, chosen: Sequence[int], now: datetime
) -> Sequence[Row[Any]]:
    free = (
        select(chunks.c.job_number, chunks.c.chunk)
        .where(
            chunks.c.job_number == job_number,
            chunks.c.chunk.in_(chosen),
            chunks.c.state == ChunkState.PENDING,
        )
        .with_for_update(skip_locked=True)
        .cte("free")  # evaluated once, whatever the plan
    )
    queued = connection.scalars(
        update(chunks)
        .where(
            tuple_(chunks.c.job_number, chunks.c.chunk).in_(select(free)),
            chunks.c.state == ChunkState.PENDING,
        )
        .values(
            state=ChunkState.QUEUED,
            generation=chunks.c.generation + 1,
            published_at=now,
            worker=None,
        )
        .returning(chunks.c.chunk)
    ).all()
    return connection.execute(
        select(chunks)
        .where(chunks.c.job_number == job_number, chunks.c.chunk.in_(queued))
        .order_by(chunks.c.shuffle)
    ).all()


def uri_of(connection: Connection, job_number: int, chunk: int, offset: int) -> str:
    """The URI of one image of a chunk."""
    uris = connection.execute(
        select(chunk_uris.c.uris).where(
            chunk_uris.c.job_number == job_number, chunk_uris.c.chunk == chunk
        )
    ).scalar_one()
    return str(uris[offset])


def queued_images(connection: Connection, queue: str) -> dict[int, int]:
    """The number of images that wait in Redis, by job. Leaves out jobs without any."""
    rows = connection.execute(
        select(chunks.c.job_number, func.sum(chunks.c.remaining_images).label("queued"))
        .select_from(chunks.join(jobs, jobs.c.number == chunks.c.job_number))
        .where(chunks.c.state == ChunkState.QUEUED, jobs.c.queue == queue)
        .group_by(chunks.c.job_number)
    )
    return {row.job_number: row.queued for row in rows}


def take_back_unclaimed(connection: Connection, queue: str, before: datetime) -> int:
    """Makes chunks pending again if they were published before this time and never claimed.

    Returns:
        The number of chunks.
    """
    of_queue = select(jobs.c.number).where(jobs.c.queue == queue, jobs.c.state == "running")
    gone = (
        select(chunks.c.job_number, chunks.c.chunk)
        .where(
            chunks.c.state == ChunkState.QUEUED,
            chunks.c.published_at < before,
            chunks.c.job_number.in_(of_queue),
        )
        # A chunk that is being claimed is not lost; its worker may hang in mid-transaction.
        .with_for_update(skip_locked=True)
        .cte("gone")  # evaluated once, whatever the plan
    )
    found = connection.execute(
        update(chunks)
        .where(tuple_(chunks.c.job_number, chunks.c.chunk).in_(select(gone)))
        .values(state=ChunkState.PENDING, due_at=db_now())
        .returning(chunks.c.chunk)
    ).all()
    return len(found)
