"""Outages of the broker and the database: workers and submits wait, and log it."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import OperationalError

from contract.database.engine import make_engine, reaching_database, reading
from contract.database.tables import jobs
from contract.database.waits import Database
from contract.errors import DatabaseUnavailable
from contract.settings import Settings
from producer.submit.sources.entry import Entry
from producer.submit.submission import Order, submit_entries
from tests.integration.dispatcher import Dispatch
from tests.integration.dispatching import WITHIN_S, on_postgresql, until
from tests.integration.installation import Installation
from worker.embedded.valkey import Valkey

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

# Workers


@on_sqlite
def test_after_a_broker_outage_a_worker_takes_messages_again(
    installation: Installation, mortal_valkey: Valkey
) -> None:
    installation.use_broker(mortal_valkey.url)
    installation.submit(["double:ok"])
    installation.start()
    mortal_valkey.kill()
    until(lambda: "Connection to broker lost" in installation.log, lambda: installation.log)
    mortal_valkey.start()
    installation.publish()
    installation.await_states("done")


@on_postgresql
def test_after_a_database_outage_a_worker_stores_and_acknowledges(
    installation: Installation, set_reachable, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    installation.submit([f"double:hold:{gate}", "double:ok"])
    installation.start(LEASE_S="600")
    installation.publish()
    until(gate.with_suffix(".held").exists)
    set_reachable(reachable=False)
    gate.touch()
    until(lambda: "The database does not answer; retrying" in installation.log)
    assert installation.unacknowledged() == 1
    set_reachable(reachable=True)
    installation.engine.dispose()
    installation.await_states("done")
    until(lambda: installation.unacknowledged() == 0)
    assert (set(installation.rows()), installation.tallied()) == ({0, 1}, 2)
    assert "The database is back after" in installation.log


# PostgreSQL's error when its disk is full.
FILL = """
CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER fill BEFORE INSERT ON {table} EXECUTE FUNCTION fill()
"""


@on_postgresql
def test_a_worker_waits_for_space_on_the_databases_disk(installation: Installation) -> None:
    execute(installation.engine, FILL.format(table="results"))
    installation.submit(["double:ok"])
    installation.start()
    installation.publish()
    until(lambda: "could not extend file" in installation.log, lambda: installation.log)
    assert installation.states() == {0: "running"}
    assert installation.unacknowledged() == 1
    execute(installation.engine, "DROP TRIGGER fill ON results")
    installation.await_states("done")
    assert (set(installation.rows()), installation.tallied()) == ({0}, 1)


def test_a_worker_waits_for_space_for_the_sqlite_file(
    sqlite_database: str, monkeypatch, caplog
) -> None:
    monkeypatch.setattr("contract.database.waits.FIRST_WAIT_S", 0.0)
    engine, tries = make_engine(sqlite_database), itertools.count()

    def work(connection: Connection) -> None:
        room = 2**20 if next(tries) else 1
        connection.exec_driver_sql(f"PRAGMA max_page_count = {room}")
        connection.exec_driver_sql("CREATE TABLE large AS SELECT zeroblob(1000000) AS blob")

    Database(engine).transact(work)
    assert next(tries) == 2
    assert "retrying: database or disk is full" in caplog.text
    engine.dispose()


@on_postgresql
def test_a_worker_frozen_beyond_its_lease_stores_nothing_and_logs_it(
    installation: Installation, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    installation.submit([f"double:hold:{gate}", "double:ok"])
    dispatcher = Dispatch(installation.settings, tmp_path / "dispatch.log", LEASE_S="1")
    try:
        frozen = installation.start()
        until(gate.with_suffix(".held").exists, lambda: dispatcher.said)
        os.killpg(frozen.pid, signal.SIGSTOP)
        gate.touch()
        installation.start()
        installation.await_states("done")
        before = installation.rows()
        os.killpg(frozen.pid, signal.SIGCONT)
        until(lambda: "are dropped" in installation.log or "a fault of" in installation.log)
    finally:
        dispatcher.process.kill()
        dispatcher.process.wait()
    assert installation.rows() == before
    assert all(f"-{installation.processes[1].pid}-" in row.worker for row in before.values())
    assert "another run has this chunk by now; this run's outcomes are dropped" in installation.log


# Submits


@pytest.fixture
def order(settings: Settings) -> Order:
    small = settings.model_copy(update={"chunk_images": 1})
    return Order.of(small, name=None, key="k", priority=0)


def entries(number: int) -> Iterator[Entry]:
    for n in range(number):
        yield Entry(f"https://a.example/{n}.jpg", None, f"image {n}", 0)


@on_postgresql
def test_a_temporarily_read_only_server_is_waited_for(engine: Engine, monkeypatch, caplog) -> None:
    """A replica before it takes over is read-only, and some hosts are when space is short."""
    monkeypatch.setattr("contract.database.waits.FIRST_WAIT_S", 0.0)
    tries = itertools.count()

    def work(connection: Connection) -> None:
        if not next(tries):
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        connection.exec_driver_sql("CREATE TABLE later (n integer)")

    Database(engine).transact(work)
    assert next(tries) == 2
    assert "retrying: cannot execute CREATE TABLE in a read-only transaction" in caplog.text


@on_postgresql
def test_a_submit_continues_after_a_database_outage(
    settings: Settings, order: Order, set_reachable, monkeypatch, caplog
) -> None:
    monkeypatch.setattr("producer.submit.intake.GROUP_IMAGES", 10)
    engine = make_engine(settings.database())

    def advance(_: int) -> None:
        nonlocal goes_away
        if goes_away:
            goes_away = False
            set_reachable(reachable=False)

    goes_away = True
    with ThreadPoolExecutor(1) as threads:
        submitting = threads.submit(submit_entries, engine, entries(40), order, advance=advance)
        until(lambda: "The database does not answer; retrying" in caplog.text)
        set_reachable(reachable=True)
        assert submitting.result(WITHIN_S).images == 40
    assert count(engine, "chunks") == 40
    engine.dispose()


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_submit_whose_commit_was_not_reported_inserts_nothing_twice(
    engine: Engine, order: Order, monkeypatch, lost: int
) -> None:
    """The lost answer is for the job's row, its chunks, or the change to running."""
    monkeypatch.setattr("contract.database.waits.FIRST_WAIT_S", 0.0)
    commits = iter(range(1, 100))

    @event.listens_for(engine, "commit")
    def lose(connection: Connection) -> None:
        if connection.get_execution_options().get("resnext_read_only"):
            return
        if next(commits) == lost:
            connection.connection.commit()
            raise OperationalError("COMMIT", {}, ConnectionResetError("the answer was lost"))

    submission = submit_entries(engine, entries(3), order)
    assert submission.images == 3
    assert (count(engine, "jobs"), count(engine, "chunks")) == (1, 3)
    with reading(engine) as connection:
        assert connection.execute(jobs.select()).one().state == "running"


@on_postgresql
def test_a_full_disk_is_an_error_for_a_submit(engine: Engine, order: Order) -> None:
    execute(engine, FILL.format(table="chunks"))
    with (
        pytest.raises(DatabaseUnavailable, match=r"is full\. Make room"),
        reaching_database(engine),
    ):
        submit_entries(engine, entries(3), order)
    assert count(engine, "jobs") == 0


@on_sqlite
def test_a_full_disk_is_an_error_for_a_submit_to_sqlite(database_url: str, order: Order) -> None:
    engine = make_engine(database_url)

    @event.listens_for(engine, "connect")
    def leave_no_room(connection, _record) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")

    with (
        pytest.raises(DatabaseUnavailable, match=r"is full\. Make room"),
        reaching_database(engine),
    ):
        submit_entries(engine, entries(10_000), order)
    assert count(engine, "jobs") == 0
    engine.dispose()


def execute(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


def count(engine: Engine, table: str) -> int:
    with reading(engine) as connection:
        return int(connection.scalar(text(f"SELECT count(*) FROM {table}")))
