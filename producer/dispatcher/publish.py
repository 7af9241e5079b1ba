"""From SQL to Redis: queues due chunks, as many as the fleet can use within moments.

The dispatcher calls `publish` once per tick. One transaction sets chunks to `queued` and raises
their generation. Their messages are sent only after its commit. If the dispatcher dies in between,
a queued chunk has no message, which `producer.dispatcher.unclaimed` finds. Two dispatchers at once
publish no chunk twice, because the transaction takes it out of `pending`.

The window is what waits in Redis, a second or two of the fleet's work. It is counted in images,
since a retried chunk may have only one or two. Jobs of one priority have equal shares of it, and
each step of priority doubles a job's share. So urgent jobs go first, but a job one step more urgent
does not block the others.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from celery import Celery
from sqlalchemy import Connection, Engine, Row, func, select

from contract import remaining
from contract.broker.message import (
    ALONE_VERSION,
    NOTICE_VERSION,
    PUBLISHED_AT_HEADER,
    TASK_NAME,
    ChunkMessage,
)
from contract.chunks import later
from contract.chunks.dispatch import due as due_chunks
from contract.chunks.dispatch import publish as publish_chunks
from contract.chunks.dispatch import queued_images, uri_of
from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import jobs, workers
from contract.flow import FIRST_CHUNK_IMAGES, window_images
from contract.settings import Settings
from producer.dispatcher.suspects import is_suspect, next_alone

# Bounds one transaction and its memory. The next tick publishes more.
CHUNKS_A_TICK: Final = 1000


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a running job has in the window, and what it could add."""

    job_number: int
    priority: int
    queued: int
    """Images in the window."""
    due: int
    """Due chunks, counted only up to the number that could go out."""
    images_a_chunk: float
    """Mean over the due chunks."""


@dataclass(frozen=True)
class Publication:
    """A chunk that is queued in SQL, with the contents of its message."""

    queue: str
    message: ChunkMessage
    published_at: datetime


def publish(engine: Engine, app: Celery, settings: Settings) -> int:
    """Queues as many due chunks as the windows have room for. Returns their number."""
    with reading(engine) as connection:
        plan = [
            planned
            for queue in _queues(connection)
            for planned in _plan(connection, queue, settings)
        ]
    published = 0
    for job_number, images in plan:
        with engine.begin() as connection:
            publications = _queue_due(connection, job_number, images)
        push(app, publications)
        published += len(publications)
    return published


def push(app: Celery, publications: Sequence[Publication]) -> None:
    """Sends the messages over one connection.

    Raises:
        kombu.exceptions.OperationalError: Redis is unavailable. The chunks stay queued in SQL.
    """
    if not publications:
        return
    with app.producer_pool.acquire(block=True) as producer:
        for publication in publications:
            message = publication.message
            app.send_task(
                TASK_NAME,
                kwargs=message.encode(),
                # Flower and the log show these instead of the URIs.
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


def _plan(connection: Connection, queue: str, settings: Settings) -> list[tuple[int, float]]:
    """Jobs of this queue, with the number of images that each may add to the window."""
    queued = queued_images(connection, queue)
    images = _window(connection, queue, settings) - sum(queued.values())
    if images <= 0:
        return []
    return share(_demands(connection, queue, queued, images), images)


def _window(connection: Connection, queue: str, settings: Settings) -> int:
    """Size of the queue's window in images."""
    fleet, device_images_s = connection.execute(
        select(func.count(), func.coalesce(func.sum(workers.c.images_per_s), 0.0)).where(
            workers.c.queue == queue, workers.c.heartbeat_at > db_now(-settings.lease_s)
        )
    ).one()
    done_images_s: float | None = connection.scalar(
        select(func.sum(jobs.c.images_per_s)).where(
            jobs.c.state == "running", jobs.c.queue == queue
        )
    )
    return window_images(
        workers=fleet,
        chunk_images=settings.chunk_images or FIRST_CHUNK_IMAGES,
        window_s=settings.window_s,
        device_images_s=device_images_s,
        done_images_s=done_images_s,
    )


def _demands(
    connection: Connection, queue: str, queued: dict[int, int], images_at_most: int
) -> list[Demand]:
    """The demands of running jobs with due chunks."""
    most = min(images_at_most, CHUNKS_A_TICK)
    due = due_chunks(jobs.c.number, most=most).correlate(jobs).subquery()
    counted = select(func.count()).select_from(due).scalar_subquery()
    images = select(func.sum(due.c.remaining_images)).scalar_subquery()
    rows = connection.execute(
        select(jobs.c.number, jobs.c.priority, counted.label("due"), images.label("images"))
        .where(jobs.c.state == "running", jobs.c.queue == queue, jobs.c.paused_at.is_(None))
        .order_by(jobs.c.number)
    )
    return [
        Demand(
            job_number=row.number,
            priority=row.priority,
            queued=queued.get(row.number, 0),
            due=row.due,
            images_a_chunk=row.images / row.due,
        )
        for row in rows
        if row.due
    ]


def share(demands: Sequence[Demand], images: int) -> list[tuple[int, float]]:
    """Divides images among jobs. Returns the most urgent first, with about `images` in all, and at
    most CHUNKS_A_TICK chunks.

    Each chunk goes to the job that would then have the fewest images in the window for its weight.
    Among equals, the more urgent job comes first, then the earlier one. So the window counts: a job
    gets nothing until the others have as much for their weight, or have nothing due.
    """
    heap = [(_load(demand, 1), -demand.priority, n) for n, demand in enumerate(demands)]
    heapq.heapify(heap)
    given: Counter[int] = Counter()
    left = float(images)
    for _ in range(CHUNKS_A_TICK):
        if not heap or left <= 0:
            break
        _, priority, n = heapq.heappop(heap)
        given[n] += 1
        left -= demands[n].images_a_chunk
        if given[n] < demands[n].due:
            heapq.heappush(heap, (_load(demands[n], given[n] + 1), priority, n))
    urgent = sorted(given, key=lambda n: (-demands[n].priority, n))
    return [(demands[n].job_number, given[n] * demands[n].images_a_chunk) for n in urgent]


def _load(demand: Demand, given: int) -> float:
    """The job's images in the window after `given` more chunks, divided by its weight
    2^priority.
    """
    return (demand.queued + given * demand.images_a_chunk) / 2.0**demand.priority


def _queue_due(connection: Connection, job_number: int, images: float) -> list[Publication]:
    published_at, queued = publish_chunks(connection, job_number, images, most=CHUNKS_A_TICK)
    if not queued:
        return []
    job = connection.execute(
        select(jobs.c.id, jobs.c.queue).where(jobs.c.number == job_number)
    ).one()
    return [
        Publication(job.queue, _message(connection, job.id, chunk), published_at)
        for chunk in queued
    ]


def _message(connection: Connection, job: str, chunk: Row[Any]) -> ChunkMessage:
    offsets = later.current(remaining.decode(chunk.remaining), chunk.later)
    named: dict[str, Any] = {"images": len(offsets), "version": NOTICE_VERSION}
    if is_suspect(chunk):
        offset = next_alone(chunk, offsets)
        named = {
            "positions": (chunk.first_position + offset,),
            "uris": (uri_of(connection, chunk.job_number, chunk.chunk, offset),),
            "version": ALONE_VERSION,
        }
    return ChunkMessage(
        job=job,
        job_number=chunk.job_number,
        chunk=chunk.chunk,
        generation=chunk.generation,
        **named,
    )
