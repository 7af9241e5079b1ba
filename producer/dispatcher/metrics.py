"""The dispatcher's metrics for Prometheus: its own counts, and the state of the whole fleet.

The loop notes each tick. The leader reads SQL and Redis when Prometheus asks, at most every
`READ_EVERY_S`. So a tick costs only a few additions, and a scrape costs five small statements
(`producer.dispatcher.fleet`) and one `LLEN` per queue.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from celery import Celery
from kombu.exceptions import OperationalError as BrokerError
from prometheus_client.registry import Collector
from redis.exceptions import RedisError
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from contract.broker.connection import redis_of
from contract.database.engine import reading
from contract.metrics.exporter import Family, family
from contract.metrics.metric import Histogram, Metric, Values, by_name
from producer.dispatcher.fleet import (
    MOST_JOBS,
    MOST_PENDING_CHUNKS,
    MOST_QUEUES,
    OTHERS,
    OUT,
    WITHIN_S,
    Fleet,
    read_fleet,
)

READ_EVERY_S: Final = 2.0
STATES: Final = ("pending", *OUT)

METRICS: Final = by_name(
    Metric(
        "resnext_dispatcher_leading",
        "gauge",
        "1: this dispatcher leads and reaches the database. 0: it stands by.",
    ),
    Metric(
        "resnext_dispatch_tick_seconds",
        "histogram",
        "Duration of a tick in seconds. A tick begins every RESNEXT_DISPATCH_INTERVAL_S.",
    ),
    Metric(
        "resnext_published_chunks_total", "counter", "Chunks whose messages were sent to Redis."
    ),
    Metric(
        "resnext_reaped_chunks_total",
        "counter",
        "Chunks taken back from dead workers.",
    ),
    Metric(
        "resnext_lost_chunks_total",
        "counter",
        "Chunks published again because their message was lost: Redis lost it, or a worker died "
        "with it.",
    ),
    Metric(
        "resnext_last_stored_timestamp_seconds",
        "gauge",
        "Time when images of a running job were last counted, in seconds since 1970. Missing "
        "until this dispatcher has counted some.",
        labels=("queue",),
    ),
    Metric(
        "resnext_jobs",
        "gauge",
        f"Jobs by state, counted up to {MOST_JOBS:,} per state. Abandoned jobs are being deleted.",
        labels=("state",),
    ),
    Metric(
        "resnext_pending_images",
        "gauge",
        "Images of running jobs that have no result yet, including those that workers hold. "
        "Paused jobs do not count.",
        labels=("queue",),
    ),
    Metric(
        "resnext_chunks",
        "gauge",
        "Chunks by state: pending (in SQL, of running jobs that are not paused, counted up to "
        f"about {MOST_PENDING_CHUNKS:,} over all jobs), queued (in Redis), running (with a "
        "worker).",
        labels=("queue", "state"),
    ),
    Metric(
        "resnext_oldest_due_chunk_age_seconds",
        "gauge",
        "For how many seconds the oldest due chunk has been due. 0: no chunk is due. All chunks "
        "of a job are due once it is submitted.",
        labels=("queue",),
    ),
    Metric(
        "resnext_broker_messages",
        "gauge",
        "Messages in Redis that wait for a worker.",
        labels=("queue",),
    ),
    Metric(
        "resnext_workers",
        "gauge",
        "Live workers that take chunks.",
        labels=("queue",),
    ),
)
OF_THE_FLEET: Final = (
    "resnext_last_stored_timestamp_seconds", "resnext_jobs", "resnext_pending_images",
    "resnext_chunks", "resnext_oldest_due_chunk_age_seconds", "resnext_broker_messages",
    "resnext_workers",
)  # fmt: skip
"""Metrics of the whole fleet, not of a process. Only the leading dispatcher shows them."""
NOTE: Final = (
    f"Metrics with the label `queue` have at most {MOST_QUEUES} queues, those with the most "
    f"pending images. `{OTHERS}` adds up the rest."
)


class Metrics:
    """Owns the counts of one dispatcher. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._ticks = Histogram(METRICS["resnext_dispatch_tick_seconds"].edges)
        self._chunks = {"published": 0, "reaped": 0, "lost": 0}
        self._stored: dict[str, float] = {}
        self._leads = False

    @property
    def leads(self) -> bool:
        return self._leads

    def note_tick(self, seconds: float, *, leads: bool) -> None:
        with self._lock:
            self._ticks.add([seconds])
            self._leads = leads

    def note_published(self, chunks: int) -> None:
        self._note("published", chunks)

    def note_reaped(self, chunks: int) -> None:
        self._note("reaped", chunks)

    def note_lost(self, chunks: int) -> None:
        self._note("lost", chunks)

    def note_stored(self, queues: Iterable[str]) -> None:
        """Notes that images of running jobs in these queues have just been counted."""
        now = self._clock()
        with self._lock:
            for queue in queues:
                self._stored.pop(queue, None)  # keeps the newest last
                self._stored[queue] = now
            while len(self._stored) > MOST_QUEUES:
                del self._stored[next(iter(self._stored))]

    def read(self) -> dict[str, Histogram | Values]:
        """Metrics of this process."""
        with self._lock:
            values: dict[str, Histogram | Values] = {
                "resnext_dispatcher_leading": {(): int(self._leads)},
                "resnext_dispatch_tick_seconds": self._ticks.copy(),
            }
            for what, chunks in self._chunks.items():
                values[f"resnext_{what}_chunks_total"] = {(): chunks}
            return values

    def last_stored(self) -> Values:
        with self._lock:
            return {(queue,): when for queue, when in self._stored.items()}

    def _note(self, what: str, chunks: int) -> None:
        with self._lock:
            self._chunks[what] += chunks


class DispatcherCollector(Collector):
    """Prometheus's view. A thread of the exporter calls it once per scrape."""

    def __init__(self, metrics: Metrics, engine: Engine, app: Celery, *, lease_s: float) -> None:
        self._metrics = metrics
        self._engine = engine
        self._app = app
        self._lease_s = lease_s
        self._reading = threading.Lock()
        self._read_at: float | None = None
        self._values: Mapping[str, Values] = {}

    def collect(self) -> Iterator[Family]:
        values = {**self._metrics.read(), **self._of_the_fleet()}
        for name, metric in METRICS.items():
            if name in values:
                yield family(metric, values[name])

    def _of_the_fleet(self) -> Mapping[str, Values]:
        """Empty if another dispatcher leads, or if the database does not answer in time."""
        if not self._metrics.leads or not self._reading.acquire(timeout=WITHIN_S):
            return {}
        try:
            if self._read_at is None or time.monotonic() - self._read_at >= READ_EVERY_S:
                self._values = self._read()
                self._read_at = time.monotonic()
            return self._values
        finally:
            self._reading.release()

    def _read(self) -> Mapping[str, Values]:
        try:
            with reading(self._engine) as connection:
                fleet = read_fleet(connection, self._lease_s)
        except DBAPIError:  # the loop has logged it
            return {}
        return {
            "resnext_last_stored_timestamp_seconds": self._metrics.last_stored(),
            **_values_of(fleet),
            **self._messages(fleet),
        }

    def _messages(self, fleet: Fleet) -> Mapping[str, Values]:
        """Empty if Redis does not answer."""
        queues = [queue for queue in fleet.queues if queue != OTHERS]
        if not queues:
            return {"resnext_broker_messages": {}}
        try:
            asked = redis_of(self._app).pipeline(transaction=False)
            for queue in queues:
                asked.llen(queue)
            lengths = asked.execute()
        except (BrokerError, RedisError, OSError):
            return {}
        return {
            "resnext_broker_messages": {
                (queue,): length for queue, length in zip(queues, lengths, strict=True)
            }
        }


def _values_of(fleet: Fleet) -> dict[str, Values]:
    queues = fleet.queues.items()
    return {
        "resnext_jobs": {(state,): jobs for state, jobs in fleet.jobs.items()},
        "resnext_pending_images": {(name,): queue.pending_images for name, queue in queues},
        "resnext_chunks": {
            (name, state): queue.chunks[state] for name, queue in queues for state in STATES
        },
        "resnext_oldest_due_chunk_age_seconds": {
            (name,): queue.oldest_due_s for name, queue in queues
        },
        "resnext_workers": {(name,): queue.workers for name, queue in queues},
    }
