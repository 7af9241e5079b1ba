"""Shared by the tests of cancel, expiry and retry: workers that store, and checks of counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from celery import Celery
from sqlalchemy import Connection, Engine, insert, select

from contract import remaining
from contract.broker.message import ChunkMessage
from contract.database.engine import reading
from contract.database.tables import chunks, models, results
from contract.database.waits import Database
from contract.failure import Failure
from contract.settings import Settings
from producer.dispatcher.count import fold
from producer.dispatcher.end import settle
from producer.dispatcher.publish import publish
from producer.jobs.classes import _counted, _kept
from producer.jobs.job import read_job
from tests.integration.dispatching import (
    claim_as,
    identity_of,
    job_of,
    submit_chunks,
    take,
    waiting,
)
from worker.chunk.claim import Claim
from worker.chunk.outcome import Outcome, Prediction, Provenance
from worker.chunk.run import Snapshot
from worker.chunk.store import Store, Stored

IMAGES = 4
"""The number of images in a chunk."""
CLASSIFIED = Outcome(Prediction((1,), (1.0,)), Provenance())
MODEL_NUMBER = 7


def failed(code: str) -> Outcome:
    return Outcome(Failure(code), Provenance())


def submit_job(engine: Engine, number: int = 3) -> int:
    """Submit a job of so many chunks and register a model. Returns the job's number."""
    register_model(engine)
    return submit_chunks(engine, number, images=IMAGES)


def register_model(engine: Engine) -> None:
    name = {"title": "m/w", "model": "m", "weights": "w", "weights_sha256": "00"}
    with engine.begin() as connection:
        connection.execute(insert(models).values(number=MODEL_NUMBER, **name))


def claim_next(engine: Engine, app: Celery, worker: str = "w1") -> Claim:
    claimed = claim_as(engine, worker, take(app).message)
    assert claimed is not None
    return claimed


def store(
    engine: Engine,
    claimed: Claim,
    outcomes: Iterable[Outcome],
    *,
    worker: str = "w1",
    closed: bool = False,
) -> Stored:
    """Store outcomes for the first images. The others still load, or `closed` hands them back."""
    by_position = dict(zip(claimed.images, outcomes, strict=False))
    unsettled = frozenset(claimed.images) - by_position.keys()
    identity = identity_of(worker, MODEL_NUMBER)
    stores = Store(Database(engine), identity, max_attempts=3, retry_backoff_s=5.0)
    return stores.store(claimed, Snapshot(by_position, unsettled, closed))


def run_all(
    engine: Engine, app: Celery, settings: Settings, outcomes: Iterable[Outcome] = ()
) -> list[ChunkMessage]:
    """Publish all due chunks and store their outcomes, by default as classified."""
    messages = []
    outcomes = tuple(outcomes) or (CLASSIFIED,) * IMAGES
    while publish(engine, app, settings):
        while waiting(app):
            claimed = claim_next(engine, app)
            store(engine, claimed, outcomes)
            messages.append(claimed.message)
    return messages


def dispatch(engine: Engine) -> None:
    """Settle and fold, as the dispatcher does without Redis, until nothing is left to do."""
    while settle(engine, for_s=60) or fold(engine):
        pass


def codes(engine: Engine, job: int) -> dict[int, str | None]:
    """The error code of each image with a row, by position. None means classified."""
    with reading(engine) as connection:
        rows = connection.execute(
            select(results.c.position, results.c.error_code).where(results.c.job_number == job)
        )
        return {row.position: row.error_code for row in rows}


def assert_counts_true(engine: Engine, job: int) -> None:
    """The job's counts match its rows, and each image either has a row or is left to run."""
    with reading(engine) as connection:
        told = read_job(connection, job)
        assert_classes_true(connection, job)
        left = [
            chunk.first_position + offset
            for chunk in connection.execute(select(chunks).where(chunks.c.job_number == job))
            for offset in remaining.decode(chunk.remaining)
        ]
    found = codes(engine, job)
    errors = Counter(code for code in found.values() if code is not None)
    assert (told.classified, told.failed) == (len(found) - errors.total(), errors.total())
    assert told.errors == dict(errors)
    assert sorted([*found, *left]) == list(range(told.total))


def assert_classes_true(connection: Connection, job: int) -> None:
    """The stored class counts match the rows."""
    kept, classified = _kept(connection, job)
    assert kept == _counted(connection, job)
    assert kept.total() == classified


def assert_ended(engine: Engine, job: int, state: str) -> None:
    """The job has ended in this state, and every image has its row."""
    assert_counts_true(engine, job)
    row = job_of(engine, job)
    assert (row.state, row.classified + row.failed) == (state, row.total)
    assert row.finished_at >= row.created_at
