"""A database of commit 58eef28, the earliest version in use, is upgraded to today's schema.

The file beside this one has its rows, which that version wrote to SQLite: it submitted, ran,
cancelled and expired jobs, and was killed in the middle of others. A fault of it put the ids of a
job's first chunk into the results of all the job's chunks. The upgrade does not change them.

A digest shows that the two migrations of that schema are unchanged.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import Boolean, DateTime, Engine, LargeBinary, MetaData, Table, select, text

from contract.database.engine import make_engine, reading
from contract.database.schema import NEWEST_SCHEMA, check_schema, revision_of
from contract.database.waits import Database
from contract.settings import Settings
from migrations.upgrade import upgrade
from producer.dispatcher.count import fold
from producer.dispatcher.publish import publish
from producer.dispatcher.reap import Reaper
from producer.jobs.classes import count_classes
from producer.jobs.job import find_job
from producer.jobs.purge import delete
from producer.jobs.results import read_results
from producer.jobs.retry import retry
from tests.integration.dispatching import Clock, take_if_any
from tests.integration.ending import CLASSIFIED
from worker.chunk.claim import claim
from worker.chunk.run import Snapshot
from worker.chunk.store import Store
from worker.process.identity import Identity

ROWS: dict[str, list[dict[str, Any]]] = json.loads(
    Path(__file__).with_name("rows_of_58eef28.json").read_text()
)
# Parents before children.
TABLES = (
    "jobs", "models", "workers", "leaders", "labels", "chunk_uris", "chunks", "results", "tallies",
)  # fmt: skip
SCHEMA = "0002"
MIGRATIONS = {  # SHA-256
    "0001_jobs_chunks_and_results.py": (
        "bf77d29f573523dbed17faf0e0a416c1e9c21a52490440a82bbb1c02cb21a56a"
    ),
    "0002_leaders_and_crashes.py": (
        "eb40e8674813ad34f2cbc337dbd4980b13cb86909ff9f1682a111b323ca3af75"
    ),
}
LEASE_S = 30.0
QUEUE = "resnext29_cifar10.bundled.amp"
COMPLETED, CANCELLED, EXPIRED, IN_THE_MIDDLE, WAITING = (job["id"] for job in ROWS["jobs"])

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database as the old version left it."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'older.db'}"
    else:
        url = request.getfixturevalue("empty_postgres_database")
    engine = make_engine(url)
    upgrade(engine, SCHEMA)
    _fill(engine)
    engine.dispose()
    return url


def _fill(engine: Engine) -> None:
    tables = MetaData()
    tables.reflect(engine)
    with engine.begin() as connection:
        for name in TABLES:
            table = tables.tables[name]
            connection.execute(table.insert(), [_read(table, row) for row in ROWS[name]])
        if engine.dialect.name == "postgresql":  # set the sequences as if the rows had used them
            for name in ("jobs", "models", "tallies"):
                last = f"setval(pg_get_serial_sequence('{name}', 'number'), max(number))"
                connection.execute(text(f"SELECT {last} FROM {name}"))


def _read(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    """Convert a row of the file for SQLAlchemy. Missing columns are NULL."""
    return {column.name: _value(column.type, row.get(column.name)) for column in table.columns}


def _value(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(kind, DateTime):
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if kind.timezone else moment
    if isinstance(kind, LargeBinary):
        return bytes.fromhex(value)
    return bool(value) if isinstance(kind, Boolean) else value


def _all_rows(engine: Engine) -> Rows:
    engine.dispose()
    tables = MetaData()
    tables.reflect(engine)
    with reading(engine) as connection:
        return {
            name: sorted(
                (
                    {c.name: value for c, value in zip(table.columns, row, strict=True)}
                    for row in connection.execute(select(table))
                ),
                key=str,
            )
            for name, table in tables.tables.items()
        }


def _ask(engine: Engine, statement: str) -> list[tuple[Any, ...]]:
    with reading(engine) as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def test_its_migrations_are_unchanged() -> None:
    folder = Path(__file__).parents[3] / "migrations" / "versions"
    found = {name: sha256((folder / name).read_bytes()).hexdigest() for name in MIGRATIONS}
    assert found == MIGRATIONS


def test_every_table_has_a_row(engine: Engine) -> None:
    before = _all_rows(engine)
    assert set(before) == {*TABLES, "alembic_version"}
    assert all(before.values())


def test_every_row_is_unchanged(engine: Engine) -> None:
    before = _all_rows(engine)
    predictions = _ask(engine, "SELECT * FROM predictions ORDER BY job, position, rank")
    upgrade(engine)
    after = _all_rows(engine)
    for name in TABLES:
        assert len(after[name]) == len(before[name])
        columns = before[name][0].keys()
        kept = [{column: row[column] for column in columns} for row in after[name]]
        assert sorted(kept, key=str) == before[name]
        added = [value for row in after[name] for key, value in row.items() if key not in columns]
        assert set(added) <= {None}
    assert all(not rows for name, rows in after.items() if name not in before)
    assert _ask(engine, "SELECT * FROM predictions ORDER BY job, position, rank") == predictions
    assert len(predictions) == 5 * (14 + 6)
    with reading(engine) as connection:
        check_schema(connection)
        assert revision_of(connection) == NEWEST_SCHEMA


def test_the_current_program_reads_the_jobs(engine: Engine) -> None:
    upgrade(engine)
    counts = {}
    with reading(engine) as connection:
        for job_id in (COMPLETED, CANCELLED, EXPIRED, IN_THE_MIDDLE, WAITING):
            job = find_job(connection, job_id)
            counts[job_id] = (job.state, job.total, job.classified, job.failed)
        job = find_job(connection, COMPLETED)
        classes = count_classes(connection, job.number)
    assert counts == {
        COMPLETED: ("completed", 16, 14, 2),
        CANCELLED: ("cancelled", 8, 0, 8),
        EXPIRED: ("expired", 4, 0, 4),
        IN_THE_MIDDLE: ("running", 12, 6, 0),
        WAITING: ("running", 5, 0, 0),
    }
    assert (job.name, job.priority, job.errors) == (
        "Bilder ✓", 3, {"truncated": 1, "not_an_image": 1},
    )  # fmt: skip
    assert sum(one.images for one in classes) == 14
    records = list(read_results(engine, job))
    assert [(record["uri"], record["ref"]) for record in records] == [
        (row["uri"], row["ref"])
        for row in sorted(ROWS["results"], key=lambda row: row["position"])
        if row["job_number"] == job.number
    ]
    assert sum(len(record.get("top5", ())) == 5 for record in records) == 14
    hosts = "SELECT DISTINCT host FROM images WHERE job = '{}'"
    assert _ask(engine, hosts.format(COMPLETED)) == [(None,)]
    assert _ask(engine, hosts.format(CANCELLED)) == [("127.0.0.1",)]


def test_the_current_program_finishes_the_jobs(
    engine: Engine, app: Celery, settings: Settings, clock: Clock
) -> None:
    """The killed worker's chunk is taken back, and a failed image is retried."""
    upgrade(engine)
    assert retry(engine, COMPLETED, ["truncated"]).images == 1
    delete(engine, CANCELLED)
    reaper = Reaper(LEASE_S, pause_s=LEASE_S)
    assert reaper.reap(engine) == 0
    clock.seconds += LEASE_S
    assert reaper.reap(engine) == 1
    while publish(engine, app, settings):
        while (sent := take_if_any(app, QUEUE)) is not None:
            _run(engine, sent.message)
        fold(engine)
    with reading(engine) as connection:
        for job_id in (COMPLETED, IN_THE_MIDDLE, WAITING):
            job = find_job(connection, job_id)
            assert job.state == "completed"
            assert job.classified + job.failed == job.total
        assert find_job(connection, COMPLETED).failed == 1
    rows = "SELECT count(*), count(DISTINCT position) FROM results JOIN jobs ON number = job_number"
    for job_id, images in ((COMPLETED, 16), (IN_THE_MIDDLE, 12), (WAITING, 5)):
        assert _ask(engine, f"{rows} WHERE id = '{job_id}'") == [(images, images)]


def _run(engine: Engine, message: Any) -> None:
    """A current worker classifies the rest of the chunk."""
    (model,) = ROWS["models"]
    identity = Identity(
        worker="today",
        queue=QUEUE,
        device="cpu",
        precision="bf16",
        orientation="ignore",
        weights_sha256=model["weights_sha256"],
        model_number=model["number"],
    )
    claimed = claim(Database(engine), identity, message)
    assert claimed is not None
    answers = dict.fromkeys(claimed.images, CLASSIFIED)
    snapshot = Snapshot(answers, frozenset(), closed=True)
    store = Store(Database(engine), identity, max_attempts=3, retry_backoff_s=5.0)
    store.store(claimed, snapshot)
