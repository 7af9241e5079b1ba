"""Shared by the tests of the dispatcher: make and read jobs, workers and messages.

Tests play the workers: they take messages from Redis and claim their chunks in SQL.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
from celery import Celery
from pydantic import SecretStr
from sqlalchemy import Engine, insert, select, text, update

from contract.broker.connection import queue_of, redis_of
from contract.broker.message import PUBLISHED_AT_HEADER, ChunkMessage
from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import chunks, jobs, workers
from contract.database.waits import Database
from contract.settings import Settings
from producer.submit.submission import submit
from tests.wait import WITHIN_S, until  # noqa: F401  (tests of the dispatcher take both from here)
from worker.chunk.claim import Claim, claim
from worker.process.identity import Identity

# For tests of features that SQLite does not have.
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
QUEUE = queue_of("resnext101_32x4d", "nvidia", "amp")


def await_a_wait_for_a_lock(engine: Engine, *, of_s: float = 0.0) -> None:
    """Return once a transaction of this PostgreSQL database has waited `of_s` for a lock."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock' "
        "AND clock_timestamp() - query_start > make_interval(secs => :of_s)"
    )

    def is_waited_for() -> bool:
        with reading(engine) as connection:
            return bool(connection.scalar(waiting, {"of_s": of_s}))

    until(is_waited_for)


def on_broker(settings: Settings, url: str) -> Settings:
    return settings.model_copy(update={"broker_url": SecretStr(url)})


@dataclass
class Clock:
    """Replaces `time` in modules of the dispatcher. It stands still until a test moves it."""

    seconds: float = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@dataclass(frozen=True)
class Sent:
    """A message in Redis."""

    message: ChunkMessage
    headers: dict[str, Any]

    @property
    def published_at(self) -> datetime:
        return datetime.fromisoformat(self.headers[PUBLISHED_AT_HEADER])

    @property
    def run(self) -> tuple[int, int, int]:
        """The run's key, which no two messages may share."""
        return self.message.job_number, self.message.chunk, self.message.generation


def _sent(raw: bytes) -> Sent:
    envelope = json.loads(raw)
    _args, kwargs, _options = json.loads(base64.b64decode(envelope["body"]))
    return Sent(ChunkMessage.decode(kwargs), envelope["headers"])


def waiting(app: Celery, queue: str = QUEUE) -> list[Sent]:
    """The messages in Redis, oldest first."""
    return [_sent(raw) for raw in reversed(redis_of(app).lrange(queue, 0, -1))]


def take(app: Celery, queue: str = QUEUE) -> Sent:
    """Take the oldest message out of Redis."""
    sent = take_if_any(app, queue)
    assert sent is not None, f"no message waits in {queue}"
    return sent


def take_if_any(app: Celery, queue: str = QUEUE) -> Sent | None:
    """The same, but return None if no message is left."""
    raw = redis_of(app).rpop(queue)
    return None if raw is None else _sent(raw)


def submit_chunks(
    engine: Engine, number: int, *, images: int = 1, priority: int = 0, **settings: Any
) -> int:
    """Submit a job of `number` chunks and return its number.

    Image n is `https://a.example/n.jpg`.
    """
    uris = ((f"https://a.example/{n}.jpg", None) for n in range(number * images))
    order = Settings(chunk_images=images, **settings)
    job = submit(engine, uris, priority=priority, settings=order)
    with reading(engine) as connection:
        return connection.execute(select(jobs.c.number).where(jobs.c.id == job)).scalar_one()


def job_of(engine: Engine, number: int) -> Any:
    with reading(engine) as connection:
        return connection.execute(select(jobs).where(jobs.c.number == number)).one()


def chunk_of(engine: Engine, number: int, chunk: int = 0) -> Any:
    statement = select(chunks, db_now().label("now"))
    with reading(engine) as connection:
        return connection.execute(
            statement.where(chunks.c.job_number == number, chunks.c.chunk == chunk)
        ).one()


def states(engine: Engine, number: int) -> list[str]:
    """The states of the job's chunks, in order."""
    statement = select(chunks.c.state).where(chunks.c.job_number == number)
    with reading(engine) as connection:
        return list(connection.scalars(statement.order_by(chunks.c.chunk)))


def change_chunks(engine: Engine, number: int, *wanted: int, **values: Any) -> None:
    """Change the wanted chunks of the job, or all if none are given."""
    of_job = chunks.c.job_number == number
    statement = update(chunks).where(of_job & chunks.c.chunk.in_(wanted) if wanted else of_job)
    with engine.begin() as connection:
        connection.execute(statement.values(**values))


def change_job(engine: Engine, number: int, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(update(jobs).where(jobs.c.number == number).values(**values))


def add_worker(
    engine: Engine, name: str, *, age_s: float = 0.0, images_per_s: float = 0.0, queue: str = QUEUE
) -> None:
    """Add a worker whose last heartbeat was `age_s` ago."""
    row = {"device": "cpu", "precision": "fp32", "version": "0", "stopping": False}
    times = {"started_at": db_now(-age_s), "heartbeat_at": db_now(-age_s)}
    with engine.begin() as connection:
        connection.execute(
            insert(workers).values(
                name=name, queue=queue, images_per_s=images_per_s, **row, **times
            )
        )


def change_worker(engine: Engine, name: str, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(update(workers).where(workers.c.name == name).values(**values))


def identity_of(worker: str, model_number: int = 0) -> Identity:
    return Identity(
        worker=worker,
        queue=QUEUE,
        device="cpu",
        precision="fp32",
        orientation="ignore",
        weights_sha256="a" * 64,
        model_number=model_number,
    )


def claim_as(engine: Engine, worker: str, message: ChunkMessage) -> Claim | None:
    return claim(Database(engine), identity_of(worker), message)


@contextmanager
def in_mid_transaction(engine: Engine, message: ChunkMessage) -> Iterator[None]:
    """Hold uncommitted changes of the chunk and of all workers' rows for the length of the block.

    They stand for workers that hang in mid-transaction. At the end they are rolled back.
    """
    of_chunk = (chunks.c.job_number == message.job_number) & (chunks.c.chunk == message.chunk)
    with engine.connect() as connection:
        connection.execute(update(chunks).where(of_chunk).values(attempt=chunks.c.attempt + 1))
        connection.execute(update(workers).values(stopping=True))
        yield
        connection.rollback()
