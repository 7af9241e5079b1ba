"""From SQL to Redis: due chunks are queued, as many as the fleet can use within moments.

The dispatcher calls `publish` once a tick. Chunks are `queued` and their generation raised in
one transaction, and only after its commit pushed: what dies in between leaves a chunk that is
queued without a message, which `producer.lost` finds. Two dispatchers at once publish no
chunk twice, since the transaction takes it out of `pending`.

What waits in Redis is the window, about two seconds of the fleet's work. Jobs of one priority
have equal parts of it, and each step of priority doubles a job's part: a few overtake, and no
job is held up for ever by one that is a step more urgent.
"""

from __future__ import annotations

import heapq
from collections import Counter
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
from contract.message import (
    ALONE_VERSION,
    MESSAGE_VERSION,
    PUBLISHED_AT_HEADER,
    TASK_NAME,
    ChunkMessage,
)
from contract.settings import Settings
from contract.tables import chunk_uris, chunks, jobs, workers
from producer.poison import is_suspect, next_alone

# Before a rate is known, so many chunks wait for each worker: one to run, one to go on with.
CHUNKS_A_WORKER: Final = 8
# Bounds one transaction and the memory it takes; the next tick goes on.
CHUNKS_A_TICK: Final = 1000


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a running job has in the window, and what it could have there."""

    job_number: int
    priority: int
    queued: int
    due: int
    """Chunks, no more of them counted than there are places."""


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
            planned
            for queue in _queues(connection)
            for planned in _plan(connection, queue, settings)
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


def _plan(connection: Connection, queue: str, settings: Settings) -> list[tuple[int, int]]:
    """How many more chunks of which job of this queue are to wait in Redis."""
    queued = _queued(connection, queue)
    places = _window(connection, queue, settings) - sum(queued.values())
    if places <= 0:
        return []
    return share(_demands(connection, queue, queued, places), places)


def _queued(connection: Connection, queue: str) -> dict[int, int]:
    """Chunks that wait in Redis, of each job that has one."""
    rows = connection.execute(
        select(chunks.c.job_number, func.count().label("queued"))
        .select_from(chunks.join(jobs, jobs.c.number == chunks.c.job_number))
        .where(chunks.c.state == "queued", jobs.c.queue == queue)
        .group_by(chunks.c.job_number)
    )
    return {row.job_number: row.queued for row in rows}


def _window(connection: Connection, queue: str, settings: Settings) -> int:
    """How many chunks of this queue may wait in Redis."""
    fleet, images_per_s = connection.execute(
        select(func.count(), func.coalesce(func.sum(workers.c.images_per_s), 0.0)).where(
            workers.c.queue == queue, workers.c.heartbeat_at > db_now(-settings.lease_s)
        )
    ).one()
    window: int = max(
        CHUNKS_A_WORKER * max(fleet, 1),
        ceil(settings.window_s * images_per_s / settings.chunk_images),
    )
    return min(window, CHUNKS_A_TICK)


def _demands(
    connection: Connection, queue: str, queued: dict[int, int], places: int
) -> list[Demand]:
    """Of the running jobs that have a chunk due."""
    due = (
        select(chunks.c.chunk)
        .where(
            chunks.c.job_number == jobs.c.number,
            chunks.c.state == "pending",
            chunks.c.due_at <= db_now(),
        )
        .limit(places)
        .correlate(jobs)
        .subquery()
    )
    counted = select(func.count()).select_from(due).scalar_subquery()
    rows = connection.execute(
        select(jobs.c.number, jobs.c.priority, counted.label("due"))
        .where(jobs.c.state == "running", jobs.c.queue == queue)
        .order_by(jobs.c.number)
    )
    return [
        Demand(
            job_number=row.number,
            priority=row.priority,
            queued=queued.get(row.number, 0),
            due=row.due,
        )
        for row in rows
        if row.due
    ]


def share(demands: Sequence[Demand], places: int) -> list[tuple[int, int]]:
    """Places for each job, the most urgent first.

    One by one they go to the job that would have the fewest chunks in the window for its
    weight, the more urgent and then the earlier of equals. So what a job has there already
    counts: it gets nothing until the others have as much for theirs, or no more that is due.
    """
    heap = [(_load(demand, 1), -demand.priority, n) for n, demand in enumerate(demands)]
    heapq.heapify(heap)
    given: Counter[int] = Counter()
    for _ in range(places):
        if not heap:
            break
        _, priority, n = heapq.heappop(heap)
        given[n] += 1
        if given[n] < demands[n].due:
            heapq.heappush(heap, (_load(demands[n], given[n] + 1), priority, n))
    urgent = sorted(given, key=lambda n: (-demands[n].priority, n))
    return [(demands[n].job_number, given[n]) for n in urgent]


def _load(demand: Demand, given: int) -> float:
    """Chunks in the window, with so many more, for the job's weight of 2 to its priority."""
    return (demand.queued + given) / 2.0**demand.priority


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
            chunks.c.deaths,
            chunks.c.attempt,
            chunks.c.alone_offset,
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
    alone = is_suspect(chunk)
    if alone:
        offsets = [next_alone(chunk, offsets)]
    return ChunkMessage(
        job=job,
        job_number=job_number,
        chunk=chunk.chunk,
        generation=chunk.generation,
        positions=tuple(chunk.first_position + offset for offset in offsets),
        uris=tuple(uris[offset] for offset in offsets),
        version=ALONE_VERSION if alone else MESSAGE_VERSION,
    )
