"""Reads the state of the whole fleet from SQL for Prometheus: jobs, images, chunks and workers.

`producer.dispatcher.metrics` calls `read_fleet` when Prometheus asks. The cost is bounded whatever
the tables hold: it reads no results, and only as many jobs and chunks as the constants allow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sqlalchemy import BigInteger, Connection, Select, cast, func, select, text

from contract.chunks.remove import ABANDONED
from contract.chunks.state import ChunkState
from contract.database.clock import db_now
from contract.database.tables import chunks, jobs, workers

JOB_STATES: Final = ("submitting", "running", "completed", "cancelled", "expired", ABANDONED)
MOST_JOBS: Final = 100_000
"""Most jobs that are counted in each state."""
MOST_PENDING_CHUNKS: Final = 10_000
"""Most pending chunks that are counted, approximately, over all running jobs."""
MOST_JOBS_LOOKED_AT: Final = 500
"""Most jobs whose pending chunks are counted. The oldest come first."""
MOST_QUEUES: Final = 50
OTHERS: Final = "other"
"""The name for all queues beyond `MOST_QUEUES`. Real names have dots."""
WITHIN_S: Final = 5.0
OUT: Final = (ChunkState.QUEUED, ChunkState.RUNNING)


@dataclass
class Queue:
    """Work and workers of one model."""

    pending_images: int = 0
    chunks: Counter[str] = field(default_factory=Counter)
    """By state: pending, queued, running."""
    oldest_due_s: float = 0.0
    """For how long the oldest due chunk has been due. 0: no chunk is due."""
    workers: int = 0

    def add(self, other: Queue) -> None:
        self.pending_images += other.pending_images
        self.chunks.update(other.chunks)
        self.oldest_due_s = max(self.oldest_due_s, other.oldest_due_s)
        self.workers += other.workers


@dataclass(frozen=True)
class Fleet:
    jobs: Mapping[str, int]
    """Number of jobs by state."""
    queues: Mapping[str, Queue]
    """At most `MOST_QUEUES` queues. `OTHERS` adds up the rest."""


def read_fleet(connection: Connection, lease_s: float) -> Fleet:
    """Four small statements. If jobs run, also a bounded count of their pending chunks."""
    _limit_time(connection)
    queues: dict[str, Queue] = {}
    running = 0
    for name, running_jobs, images in connection.execute(_pending_images()):
        queues[name] = Queue(pending_images=images)
        running += running_jobs
    for name, state, out in connection.execute(_chunks_out()):
        queues.setdefault(name, Queue()).chunks[state] = out
    for name, live in connection.execute(_live_workers(lease_s)):
        queues.setdefault(name, Queue()).workers = live
    if running:
        _add_pending_chunks(connection, queues, running)
    return Fleet(_count_jobs(connection), _most_important(queues))


def _limit_time(connection: Connection) -> None:
    """Sets a time limit in PostgreSQL. SQLite needs none: it does not wait for a network."""
    if connection.dialect.name == "postgresql":
        limit = f"{1000 * WITHIN_S:.0f}ms"
        connection.execute(
            text("SELECT set_config('statement_timeout', :limit, true)"), {"limit": limit}
        )


def _count_jobs(connection: Connection) -> dict[str, int]:
    counted = [
        select(func.count())
        .select_from(select(jobs.c.number).where(jobs.c.state == state).limit(MOST_JOBS).subquery())
        .scalar_subquery()
        .label(state)
        for state in JOB_STATES
    ]
    return dict(connection.execute(select(*counted)).mappings().one())


def _pending_images() -> Select[str, int, int]:
    left = jobs.c.total - jobs.c.classified - jobs.c.failed
    return (
        select(
            jobs.c.queue,
            func.count().label("jobs"),
            # PostgreSQL sums bigints as numeric.
            cast(func.coalesce(func.sum(left), 0), BigInteger).label("images"),
        )
        .where(jobs.c.state == "running", jobs.c.paused_at.is_(None))
        .group_by(jobs.c.queue)
    )


def _chunks_out() -> Select[str, str, int]:
    """Chunks in Redis or with workers, which are never many."""
    return (
        select(jobs.c.queue, chunks.c.state, func.count().label("chunks"))
        .select_from(chunks.join(jobs, jobs.c.number == chunks.c.job_number))
        .where(chunks.c.state.in_(OUT))
        .group_by(jobs.c.queue, chunks.c.state)
    )


def _live_workers(lease_s: float) -> Select[str, int]:
    return (
        select(workers.c.queue, func.count().label("workers"))
        .where(
            workers.c.heartbeat_at > db_now(-lease_s),
            ~workers.c.stopping,
            workers.c.crashed_by.is_(None),
        )
        .group_by(workers.c.queue)
    )


def _add_pending_chunks(connection: Connection, queues: dict[str, Queue], running: int) -> None:
    """Counts the next pending chunks of each job. Their order is random, so their times represent
    all.
    """
    looked_at = min(running, MOST_JOBS_LOOKED_AT)
    pending = (
        select(chunks.c.due_at)
        .where(chunks.c.job_number == jobs.c.number, chunks.c.state == ChunkState.PENDING)
        .order_by(chunks.c.shuffle)
        .limit(MOST_PENDING_CHUNKS // looked_at)
        .correlate(jobs)
        .subquery()
    )
    rows = connection.execute(
        select(
            jobs.c.queue,
            select(func.count()).select_from(pending).scalar_subquery().label("chunks"),
            select(func.min(pending.c.due_at)).scalar_subquery().label("due_at"),
            db_now().label("now"),
        )
        .where(jobs.c.state == "running", jobs.c.paused_at.is_(None))
        .order_by(jobs.c.number)
        .limit(looked_at)
    )
    for row in rows:
        of_job = Queue(chunks=Counter(pending=row.chunks), oldest_due_s=_age_s(row.due_at, row.now))
        queues.setdefault(row.queue, Queue()).add(of_job)


def _age_s(due_at: datetime | None, now: datetime) -> float:
    return 0.0 if due_at is None else max(0.0, (now - due_at).total_seconds())


def _most_important(queues: Mapping[str, Queue]) -> dict[str, Queue]:
    """Bounds the number of labels: clients may ask for any model, and each has its own queue."""
    ordered = sorted(queues.items(), key=lambda item: (-item[1].pending_images, item[0]))
    kept = dict(ordered[:MOST_QUEUES])
    if len(ordered) > MOST_QUEUES:
        kept[OTHERS] = _together(queue for _, queue in ordered[MOST_QUEUES:])
    return kept


def _together(queues: Iterable[Queue]) -> Queue:
    total = Queue()
    for queue in queues:
        total.add(queue)
    return total
