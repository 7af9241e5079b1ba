"""Everything works behind a real PgBouncer in transaction mode with few connections."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, create_engine, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError

from contract.database import engine as database
from contract.database.engine import make_engine, reading
from contract.database.tables import jobs, workers
from contract.settings import Settings
from migrations.upgrade import ADVISORY_LOCK, upgrade
from producer.submit.submission import submit
from tests.integration.dispatcher import Dispatch
from tests.integration.dispatching import until
from tests.integration.installation import Installation
from tests.servers.pgbouncer import MISSING, PROGRAM, pgbouncer

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=MISSING)

CONNECTIONS = 3
IMAGES = 2_000


@pytest.fixture
def pooled_url(postgres_database: str) -> Iterator[str]:
    with pgbouncer(postgres_database, connections=CONNECTIONS) as url:
        yield url


@pytest.fixture
def database_url(pooled_url: str) -> str:
    """The pooler's URL, which `engine`, `settings` and `installation` use here."""
    return pooled_url


def parameter(connection: Connection, name: str) -> str:
    return str(connection.scalar(text(f"SHOW {name}")))


def test_repeated_statements_of_many_clients_do_not_collide(database_url: str) -> None:
    """If clients prepared statements, their names would collide on the shared connections."""
    engines = [make_engine(database_url) for _ in range(4)]

    def repeat(engine: Engine) -> None:
        for _ in range(20):
            with engine.begin() as connection:  # psycopg drops prepared statements on a rollback
                connection.execute(select(jobs.c.id).where(jobs.c.number == 1)).all()
                connection.execute(select(workers.c.name).where(workers.c.name == "w")).all()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(repeat, engines * 2))
    for engine in engines:
        engine.dispose()


def test_a_transactions_timeouts_end_with_it(engine: Engine, database_url: str) -> None:
    with engine.begin() as connection:
        assert parameter(connection, "lock_timeout") == "30s"
        assert parameter(connection, "idle_in_transaction_session_timeout") == "1min"
    stranger = create_engine(database_url)
    with stranger.connect() as connection:
        assert parameter(connection, "lock_timeout") == "0"
        assert parameter(connection, "idle_in_transaction_session_timeout") == "0"
    stranger.dispose()


def test_waiting_for_a_lock_times_out(engine: Engine, monkeypatch) -> None:
    with engine.begin() as holding:
        holding.execute(text("LOCK TABLE workers"))
        monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 0.1)
        with pytest.raises(OperationalError, match="lock timeout"), engine.begin() as connection:
            connection.execute(text("LOCK TABLE workers"))


def test_a_client_stopped_in_mid_transaction_loses_its_locks(
    engine: Engine, postgres_database: str, monkeypatch
) -> None:
    direct = make_engine(postgres_database)
    monkeypatch.setattr(database, "IDLE_IN_TRANSACTION_S", 0.1)
    with engine.connect() as stopped:
        stopped.execute(text("LOCK TABLE workers"))
        with direct.begin() as connection:
            connection.execute(text("LOCK TABLE workers"))
        with pytest.raises(DBAPIError):
            stopped.execute(select(1))
    direct.dispose()


def test_a_connection_to_the_pooler_is_kept(engine: Engine) -> None:
    with engine.connect() as connection:
        first = connection.connection.driver_connection
    for _ in range(3):
        with engine.connect() as connection:
            assert connection.connection.driver_connection is first


def test_the_url_decides_whether_statements_are_prepared(database_url: str) -> None:
    """PgBouncer 1.22 with `max_prepared_statements` supports prepared statements."""
    url = make_url(database_url).update_query_dict({"prepare_threshold": "7"})
    for address, threshold in ((url, 7), (make_url(database_url), None)):
        engine = make_engine(address.render_as_string(hide_password=False))
        with engine.connect() as connection:
            assert connection.connection.driver_connection.prepare_threshold == threshold
        engine.dispose()


def test_migrations_run_in_sequence_and_leave_no_lock(
    empty_postgres_database: str,
) -> None:
    with pgbouncer(empty_postgres_database, connections=2) as url:
        engines = [make_engine(url) for _ in range(3)]
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(upgrade, engines))
        for engine in engines:
            engine.dispose()
        direct = make_engine(empty_postgres_database)
        with direct.connect() as connection:
            held = f"SELECT count(*) FROM pg_locks WHERE objid = {ADVISORY_LOCK & 0xFFFFFFFF}"
            assert connection.scalar(text(held)) == 0
        direct.dispose()


def test_a_job_is_completed_although_a_worker_is_killed(
    installation: Installation, settings: Settings, tmp_path: Path
) -> None:
    uris = ((f"https://images.example/{n}.jpg", None) for n in range(IMAGES))
    submit(installation.engine, uris, settings=settings)
    log = tmp_path / "dispatch.log"
    dispatcher = Dispatch(settings, log, LEASE_S="1")
    try:
        first = installation.start(CHUNKS_IN_FLIGHT="8")
        installation.start(CHUNKS_IN_FLIGHT="8")
        until(lambda: len(installation.rows()) > IMAGES / 10, lambda: installation.log)
        os.killpg(first.pid, signal.SIGKILL)
        until(lambda: _state(installation.engine) == "completed", lambda: installation.log)
    finally:
        dispatcher.stop()
    assert set(installation.rows()) == set(range(IMAGES))
    for said in (installation.log, log.read_text()):
        assert not re.search("ERROR|Traceback|does not answer", said), said


def _state(engine: Engine) -> str | None:
    with reading(engine) as connection:
        return connection.scalar(select(jobs.c.state))
