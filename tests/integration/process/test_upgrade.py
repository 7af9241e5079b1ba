"""Two versions of the program at once: their messages, and a schema upgrade while they run."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert, text

from benchmarks.system.sql import fill
from contract.broker.message import ALONE_VERSION
from contract.chunks.insert import Part, insert_parts
from contract.database.clock import db_now
from contract.database.engine import make_engine, reading
from contract.database.schema import check_schema
from contract.database.tables import jobs, results
from contract.database.waits import Database
from migrations.upgrade import upgrade
from producer.dispatcher.count import fold
from tests.integration.dispatching import (
    QUEUE,
    WITHIN_S,
    change_chunks,
    identity_of,
    job_of,
    states,
    until,
)
from tests.integration.ending import IMAGES, codes, register_model
from tests.integration.installation import Installation
from worker.process.heartbeat import Presence

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@on_sqlite
def test_an_older_worker_accepts_a_message_with_additional_fields(
    installation: Installation,
) -> None:
    installation.submit(["double:ok"] * 2)
    installation.start()
    installation.publish(colour="blue")
    installation.await_states("done")
    assert (set(installation.rows()), installation.tallied()) == ({0, 1}, 2)


@on_sqlite
def test_an_older_worker_leaves_an_unknown_message_to_a_newer_one(
    installation: Installation,
) -> None:
    """The message is for an image that runs alone, which older workers do not know."""
    installation.submit(["double:ok"])
    older = installation.start("older")
    installation.publish(version=ALONE_VERSION)
    until(lambda: "message version 2; this program reads versions 1" in installation.log)
    assert installation.states() == {0: "queued"}
    installation.start()
    older.terminate()  # it would hold the message for 10 s, but gives it back when it stops
    installation.await_states("done")
    until(lambda: installation.unacknowledged() == installation.waiting_messages() == 0)
    assert (set(installation.rows()), installation.tallied()) == ({0}, 1)


@pytest.fixture(params=["sqlite", "postgresql"])
def older_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A database with an older schema."""
    if request.param == "sqlite":
        engine = make_engine(f"sqlite:///{tmp_path / 'older.db'}")
    else:
        engine = make_engine(request.getfixturevalue("empty_postgres_database"))
    upgrade(engine, "0002")
    yield engine
    engine.dispose()


CHUNKS = 90
WORKERS = 3


def test_a_schema_changes_while_workers_store(older_database: Engine) -> None:
    """Older workers claim, store and send heartbeats during the upgrade.

    Nothing fails, is lost, or is done twice.
    """
    engine = older_database
    job = submit_as_before(engine, CHUNKS)
    change_chunks(engine, job, state="queued", generation=1)
    upgraded = threading.Event()
    with ThreadPoolExecutor(WORKERS) as threads:
        workers = [
            threads.submit(run_every_third, engine, job, n, upgraded) for n in range(WORKERS)
        ]
        until(lambda: codes(engine, job))
        upgrade(engine)
        upgraded.set()
        for worker in workers:
            worker.result(WITHIN_S)
    assert codes(engine, job) == dict.fromkeys(range(CHUNKS * IMAGES))
    assert set(states(engine, job)) == {"done"}
    with reading(engine) as connection:
        check_schema(connection)
    fold(engine)
    assert job_of(engine, job).classified == CHUNKS * IMAGES


def submit_as_before(engine: Engine, number: int) -> int:
    """Insert a job of so many chunks as an older submit does, and return its number."""
    register_model(engine)
    row = {
        "id": "before", "owner": "me", "priority": 0, "state": "running", "model": "m",
        "weights": "w", "precision": "fp32", "queue": QUEUE, "created_at": db_now(),
        "total": number * IMAGES, "classified": 0, "failed": 0, "errors": {}, "images_per_s": 0.0,
    }  # fmt: skip
    with engine.begin() as connection:
        job = connection.execute(
            insert(jobs).values(**row).returning(jobs.c.number, jobs.c.created_at)
        ).one()
        insert_parts(connection, job.number, job.created_at, [part(n) for n in range(number)])
    return int(job.number)


def part(chunk: int) -> Part:
    return Part(
        chunk=chunk,
        first_position=chunk * IMAGES,
        images=IMAGES,
        uris=json.dumps(uris_of(chunk)),
        refs=None,
    )


def uris_of(chunk: int) -> list[str]:
    positions = range(chunk * IMAGES, (chunk + 1) * IMAGES)
    return [f"https://a.example/{position}.jpg" for position in positions]


def run_every_third(engine: Engine, job: int, n: int, upgraded: threading.Event) -> None:
    """Run every third chunk as an older worker does. The last one runs after the upgrade."""
    presence = Presence(
        Database(engine), identity_of(f"w{n}"), lease_s=0.05, images_per_s=lambda: 1.0
    )
    presence.start()
    for chunk in range(n, CHUNKS, WORKERS):
        if chunk >= CHUNKS - WORKERS:
            assert upgraded.wait(WITHIN_S)
        run_as_before(engine, job, chunk, f"w{n}")
    presence.close()


# The statements of a worker with schema 0002, shortened to what a chunk needs.
CLAIM_BEFORE = """
UPDATE chunks SET state = 'running', worker = :worker, attempt = attempt + 1
WHERE job_number = :job AND chunk = :chunk AND generation = 1 AND state = 'queued'
"""
STORE_BEFORE = """
UPDATE chunks SET state = 'done', worker = NULL, remaining = :none, remaining_images = 0
WHERE job_number = :job AND chunk = :chunk AND generation = 1 AND state = 'running'
  AND worker = :worker
"""
TALLY_BEFORE = """
INSERT INTO tallies (job_number, classified, failed, errors) VALUES (:job, :images, 0, '{}')
"""


def run_as_before(engine: Engine, job: int, chunk: int, worker: str) -> None:
    of_chunk = {"job": job, "chunk": chunk, "worker": worker}
    with engine.begin() as connection:
        assert connection.execute(text(CLAIM_BEFORE), of_chunk).rowcount == 1
    rows = [
        {
            "job_number": job,
            "position": position,
            "uri": f"https://a.example/{position}.jpg",
            "attempts": 1,
            "settled_at": db_now(),
        }
        for position in range(chunk * IMAGES, (chunk + 1) * IMAGES)
    ]
    with engine.begin() as connection:
        stored = connection.execute(text(STORE_BEFORE), of_chunk | {"none": b""})
        assert stored.rowcount == 1
        for row in rows:
            connection.execute(insert(results).values(row))
        connection.execute(text(TALLY_BEFORE), {"job": job, "images": IMAGES})


# A row for each table that schema 0006 changes, as a program with schema 0005 writes it.
OF_0005 = (
    """INSERT INTO jobs (number, id, owner, priority, state, model, weights, precision, queue,
           created_at, total, classified, failed, errors, images_per_s)
       VALUES (7, 'before', 'me', 0, 'running', 'm', 'w', 'fp32', 'q', CURRENT_TIMESTAMP, 3, 1, 0,
           '{}', 0.5)""",
    """INSERT INTO tallies (job_number, classified, failed, errors)
       VALUES (7, 1, 1, '{"timeout": 1}')""",
)
STILL_THERE = "SELECT id, classified, paused_at, stop_at_failures, notify_url FROM jobs"


def test_a_job_and_a_tally_of_the_previous_version_continue(older_database: Engine) -> None:
    engine = older_database
    upgrade(engine, "0005")
    with engine.begin() as connection:
        for statement in OF_0005:
            connection.exec_driver_sql(statement)
    upgrade(engine)
    assert look_at(engine, STILL_THERE)[1] == [("before", 1, None, None, None)]
    assert fold(engine) == 1
    job = job_of(engine, 7)
    assert (job.state, job.classified, job.failed) == ("completed", 2, 1)
    assert job.errors == {"timeout": 1}


FILLED = 400
ALL = "SELECT * FROM predictions ORDER BY job, position, rank"


def test_predictions_has_the_same_columns_and_rows_as_before(older_database: Engine) -> None:
    engine = older_database
    fill(engine, FILLED)
    before = look_at(engine, ALL)
    upgrade(engine)
    assert look_at(engine, ALL) == before
    assert len(before[1]) == 5 * (FILLED - FILLED // 20)


def test_a_users_view_of_predictions_survives_the_upgrade(older_database: Engine) -> None:
    """PostgreSQL cannot drop a view on which another view or a grant depends."""
    engine = older_database
    fill(engine, FILLED)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE VIEW tabbies AS SELECT * FROM predictions WHERE rank = 1"
        )
    before = look_at(engine, "SELECT * FROM tabbies ORDER BY job, position")
    upgrade(engine)
    assert look_at(engine, "SELECT * FROM tabbies ORDER BY job, position") == before


def look_at(engine: Engine, statement: str) -> tuple[list[str], list[Any]]:
    """The statement's columns and rows."""
    engine.dispose()
    with reading(engine) as connection:
        result = connection.execute(text(statement))
        return list(result.keys()), [tuple(row) for row in result]
