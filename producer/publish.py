"""From SQL to Redis: due chunks are queued, as many as the fleet can use within moments.

The dispatcher calls `publish` once a tick. Chunks are `queued` and their generation raised in
one transaction, and only after its commit pushed: what dies in between leaves a chunk that is
queued without a message, which `producer.lost` finds. Two dispatchers at once publish no
chunk twice, since the transaction takes it out of `pending`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import Any, Final

from celery import Celery
from sqlalchemy import Connection, Engine, Row, func, select, tuple_, update

from contract import remaining
from contract.clock import db_now
from contract.database import reading
from contract.message import PUBLISHED_AT_HEADER, TASK_NAME, ChunkMessage
from contract.settings import Settings
from contract.tables import chunk_uris, chunks, jobs, workers

# Before a rate is known, so many chunks wait for each worker: one to run, one to go on with.
CHUNKS_A_WORKER: Final = 8
# Bounds one transaction and the memory it takes; the next tick goes on.
CHUNKS_A_TICK: Final = 1000


@dataclass(frozen=True)
class Publication:
    """A chunk that is queued in SQL, with what its message needs."""

    queue: str
    message: ChunkMessage
    published_at: datetime


def publish(engine: Engine, app: Celery, settings: Settings) -> int:
    """Queues what is due as far as there are places; returns the number of chunks."""
    with reading(engine) as connection:
        plan = [
            (job, places)
            for queue in _queues(connection)
            for job, places in _share(
                _live_jobs(connection, queue), _free_places(connection, queue, settings)
            )
        ]
    published = 0
    for job_number, places in plan:
        with engine.begin() as connection:
            publications = _queue_due(connection, job_number, places)
        push(app, publications)
        published += len(publications)
    return published


def push(app: Celery, publications: Sequence[Publication]) -> None:
    """Sends the messages over one connection.

    Raises:
        kombu.exceptions.OperationalError: Redis is away; the chunks stay queued in SQL.
    """
    if not publications:
        return
    with app.producer_pool.acquire(block=True) as producer:
        for publication in publications:
            message = publication.message
            app.send_task(
                TASK_NAME,
                kwargs=message.encode(),
                # What Flower and the log show instead of the URIs:
                argsrepr="",
                kwargsrepr=str(message),
                task_id=f"{message.job}-{message.chunk}-{message.generation}",
                queue=publication.queue,
                headers={PUBLISHED_AT_HEADER: publication.published_at.isoformat()},
                producer=producer,
                ignore_result=True,
            )


def _queues(connection: Connection) -> Sequence[str]:
    return connection.scalars(
        select(jobs.c.queue).where(jobs.c.state == "running").distinct()
    ).all()


def _live_jobs(connection: Connection, queue: str) -> Sequence[int]:
    """Running jobs that have a chunk due, those of high priority first."""
    due = (
        select(chunks.c.chunk)
        .where(
            chunks.c.job_number == jobs.c.number,
            chunks.c.state == "pending",
            chunks.c.due_at <= db_now(),
        )
        .exists()
    )
    return connection.scalars(
        select(jobs.c.number)
        .where(jobs.c.state == "running", jobs.c.queue == queue, due)
        .order_by(jobs.c.priority.desc(), jobs.c.number)
    ).all()


def _free_places(connection: Connection, queue: str, settings: Settings) -> int:
    """How many more chunks of this queue may wait in Redis."""
    queued = connection.scalar(
        select(func.count())
        .select_from(chunks.join(jobs, jobs.c.number == chunks.c.job_number))
        .where(chunks.c.state == "queued", jobs.c.queue == queue)
    )
    fleet, images_per_s = connection.execute(
        select(func.count(), func.coalesce(func.sum(workers.c.images_per_s), 0.0)).where(
            workers.c.queue == queue, workers.c.heartbeat_at > db_now(-settings.lease_s)
        )
    ).one()
    window: int = max(
        CHUNKS_A_WORKER * max(fleet, 1),
        ceil(settings.window_s * images_per_s / settings.chunk_images),
    )
    return min(window, CHUNKS_A_TICK) - (queued or 0)


def _share(live_jobs: Sequence[int], places: int) -> list[tuple[int, int]]:
    """Places for each job: equal parts, and what is left over to the first of them."""
    if places <= 0 or not live_jobs:
        return []
    each, more = divmod(places, len(live_jobs))
    parts = [(job, each + (rank < more)) for rank, job in enumerate(live_jobs)]
    return [(job, part) for job, part in parts if part]


def _queue_due(connection: Connection, job_number: int, places: int) -> list[Publication]:
    now = connection.scalar(select(db_now()))
    assert now is not None  # noqa: S101  (a clock always answers)
    due = (
        select(chunks.c.job_number, chunks.c.chunk)
        .where(
            chunks.c.job_number == job_number,
            chunks.c.state == "pending",
            chunks.c.due_at <= now,
        )
        .order_by(chunks.c.shuffle)
        .limit(places)
        .with_for_update(skip_locked=True)
        .cte("due")  # evaluated once, whatever the plan
    )
    queued = connection.execute(
        update(chunks)
        .where(
            tuple_(chunks.c.job_number, chunks.c.chunk).in_(select(due)),
            chunks.c.state == "pending",
        )
        .values(
            state="queued",
            generation=chunks.c.generation + 1,
            published_at=now,
            worker=None,
        )
        .returning(
            chunks.c.chunk,
            chunks.c.generation,
            chunks.c.first_position,
            chunks.c.remaining,
            chunks.c.shuffle,
        )
    ).all()
    if not queued:
        return []
    job = connection.execute(
        select(jobs.c.id, jobs.c.queue).where(jobs.c.number == job_number)
    ).one()
    uris = _uris_of(connection, job_number, [row.chunk for row in queued])
    return [
        Publication(job.queue, _message(job.id, job_number, row, uris[row.chunk]), published_at=now)
        for row in sorted(queued, key=lambda row: row.shuffle)  # RETURNING keeps no order
    ]


def _uris_of(
    connection: Connection, job_number: int, numbers: Sequence[int]
) -> dict[int, list[str]]:
    rows = connection.execute(
        select(chunk_uris.c.chunk, chunk_uris.c.uris).where(
            chunk_uris.c.job_number == job_number, chunk_uris.c.chunk.in_(numbers)
        )
    )
    return {row.chunk: row.uris for row in rows}


def _message(job: str, job_number: int, chunk: Row[Any], uris: Sequence[str]) -> ChunkMessage:
    offsets = remaining.decode(chunk.remaining)
    return ChunkMessage(
        job=job,
        job_number=job_number,
        chunk=chunk.chunk,
        generation=chunk.generation,
        positions=tuple(chunk.first_position + offset for offset in offsets),
        uris=tuple(uris[offset] for offset in offsets),
    )
