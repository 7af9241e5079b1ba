"""The two databases behave alike: clock, transactions, schema."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, event, func, insert, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from contract.database import engine as database
from contract.database.clock import db_now
from contract.database.engine import connect_database, make_engine, reading
from contract.database.schema import check_schema, check_upgradable
from contract.database.tables import metadata, workers
from contract.database.waits import Database
from contract.errors import DatabaseUnavailable, SchemaMismatch
from contract.settings import Settings
from migrations.upgrade import ADVISORY_LOCK, upgrade
from tests.integration.dispatching import WITHIN_S
from worker.process.database import OTHER_CONNECTIONS, TASK_CONNECTIONS, connect

LOCK_TIMEOUT_S = 0.1


def test_migrations_create_the_tables_of_the_contract(engine: Engine) -> None:
    with reading(engine) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_upgrading_twice_changes_nothing(engine: Engine) -> None:
    upgrade(engine)
    with reading(engine) as connection:
        check_schema(connection)


def test_the_databases_clock_is_utc_and_shifts_by_seconds(engine: Engine) -> None:
    with reading(engine) as connection:
        now, earlier = connection.execute(select(db_now(), db_now(-90.5))).one()
    assert abs((datetime.now(UTC) - now).total_seconds()) < 5
    assert abs((now - earlier).total_seconds() - 90.5) < 0.1


def test_times_survive_a_round_trip_through_the_database(engine: Engine) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
    row = {
        "name": "w", "queue": "q", "device": "cpu", "precision": "fp32", "version": "1",
        "images_per_s": 1.5, "started_at": moment, "heartbeat_at": moment, "stopping": False,
    }  # fmt: skip
    with engine.begin() as connection:
        connection.execute(insert(workers).values(row))
    with reading(engine) as connection:
        assert connection.scalar(select(workers.c.started_at)) == moment
        assert connection.scalar(select(workers.c.name).where(workers.c.started_at < db_now()))


def test_the_error_for_a_missing_schema_names_the_command_to_run(tmp_path) -> None:
    path = tmp_path / "empty.db"
    path.touch()
    with pytest.raises(SchemaMismatch, match="resnextq db upgrade"):
        connect_database(Settings(database_url=f"sqlite:///{path}"))


def test_a_mistyped_path_makes_no_empty_database(tmp_path) -> None:
    path = tmp_path / "typo.db"
    with pytest.raises(DatabaseUnavailable, match="no database at"):
        connect_database(Settings(database_url=f"sqlite:///{path}"))
    assert not path.exists()


def test_the_error_for_an_unreachable_database_hides_its_password() -> None:
    settings = Settings(database_url="postgresql://me:hunter2@127.0.0.1:1/images")
    with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1:1/images does not answer") as it:
        connect_database(settings)
    assert "hunter2" not in str(it.value)


def test_a_schema_that_is_too_new_is_refused(tmp_path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'new.db'}")
    upgrade(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0999'")
    engine.dispose()
    with pytest.raises(SchemaMismatch, match="0999, too new"):
        connect_database(Settings(database_url=f"sqlite:///{tmp_path / 'new.db'}"))


def test_another_programs_database_is_refused(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '3ac7d1c0f2b4'"))
    for check in (check_schema, check_upgradable):
        with (
            reading(engine) as connection,
            pytest.raises(SchemaMismatch, match=r"belongs to another program.*3ac7d1c0f2b4"),
        ):
            check(connection)


def test_many_chunks_share_few_connections(settings: Settings) -> None:
    """A fleet must stay below the server's limit on connections. All 64 threads get one in turn."""
    engine = connect(settings.model_copy(update={"chunks_in_flight": 64}))
    most = TASK_CONNECTIONS + OTHER_CONNECTIONS
    open_at_once: list[int] = []
    all_open = threading.Barrier(most, timeout=WITHIN_S)

    def look(number: int) -> None:
        with reading(engine) as connection:
            connection.execute(select(1))
            if number < most:
                all_open.wait()
            open_at_once.append(engine.pool.checkedout())

    with ThreadPoolExecutor(64) as threads:
        list(threads.map(look, range(256)))
    engine.dispose()
    assert max(open_at_once) == most


# PostgreSQL: every wait has a limit


@pytest.fixture
def make_hasty(postgres_database: str, monkeypatch) -> Iterator[Callable[..., Engine]]:
    """A function that makes engines with other timeouts."""
    engines = []

    def make(**seconds: float) -> Engine:
        with monkeypatch.context() as patch:
            for name, value in seconds.items():
                patch.setattr(database, name, value)
            engine = make_engine(postgres_database)
            engine.connect().close()
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.dispose()


def lock_workers(connection: Connection) -> None:
    connection.execute(text("LOCK TABLE workers"))


def parameters_of(url: str) -> dict[str, str]:
    """The parameters with which the driver opened a connection."""
    engine = make_engine(url)
    with engine.connect() as connection:
        parameters = connection.connection.driver_connection.info.get_parameters()
    engine.dispose()
    return parameters


def test_a_silently_lost_connection_times_out_within_a_lease(
    postgres_database: str,
) -> None:
    options = parameters_of(postgres_database)
    idle_s, interval_s, count = (
        int(options[f"keepalives_{name}"]) for name in ("idle", "interval", "count")
    )
    assert 0 < idle_s + interval_s * count < Settings().lease_s
    assert 0 < int(options["tcp_user_timeout"]) / 1000 < Settings().lease_s


def test_a_connection_closed_by_the_server_is_replaced_without_an_error(
    postgres_database: str,
) -> None:
    """A live connection is kept."""
    engine, other = make_engine(postgres_database), make_engine(postgres_database)
    backend, end = select(func.pg_backend_pid()), func.pg_terminate_backend
    with engine.connect() as connection:
        first = connection.scalar(backend)
    with engine.connect() as connection:
        assert connection.scalar(backend) == first
    with other.connect() as connection:
        assert connection.scalar(
            select(end(first, 1000 * int(WITHIN_S)))
        )  # waits until the backend is gone
    with engine.connect() as connection:
        assert connection.scalar(backend) != first
    engine.dispose()
    other.dispose()


def test_an_option_in_the_url_takes_precedence(postgres_database: str) -> None:
    url = make_url(postgres_database).update_query_dict({"tcp_user_timeout": "77"})
    options = parameters_of(url.render_as_string(hide_password=False))
    assert options["tcp_user_timeout"] == "77"


def test_waiting_for_a_lock_times_out(
    make_hasty: Callable[..., Engine],
) -> None:
    holder, engine = make_hasty(), make_hasty(LOCK_TIMEOUT_S=0.1)
    with holder.begin() as holding:
        lock_workers(holding)
        with pytest.raises(OperationalError, match="lock timeout"), engine.begin() as connection:
            lock_workers(connection)


def test_a_worker_stopped_in_mid_transaction_loses_its_locks_and_retries(
    make_hasty: Callable[..., Engine],
) -> None:
    """A suspended process stops like this."""
    stopped, other = make_hasty(IDLE_IN_TRANSACTION_S=0.1), make_hasty()
    others_turn = iter([True])

    def work(connection: Connection) -> str:
        lock_workers(connection)
        if next(others_turn, False):
            with other.begin() as waiting:
                lock_workers(waiting)
        connection.execute(select(1))
        return "done"

    assert Database(stopped).transact(work) == "done"


def test_a_migration_waits_for_another_one_without_limit_but_not_for_other_locks(
    make_hasty: Callable[..., Engine], monkeypatch
) -> None:
    holder, engine = make_hasty(), make_hasty(LOCK_TIMEOUT_S=LOCK_TIMEOUT_S)
    tries, timeouts = threading.Semaphore(0), []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "pg_try_advisory" in statement:
            tries.release()

    event.listen(engine, "before_cursor_execute", note)
    monkeypatch.setattr(
        command, "upgrade", lambda config, _: timeouts.append(_lock_timeout(config))
    )
    with ThreadPoolExecutor(1) as threads:
        with holder.connect() as connection:
            connection.execute(text(f"SELECT pg_advisory_lock({ADVISORY_LOCK})"))
            upgrading = threads.submit(upgrade, engine)
            for _ in range(3):
                assert tries.acquire(timeout=WITHIN_S)
            assert not upgrading.done()
            connection.execute(text(f"SELECT pg_advisory_unlock({ADVISORY_LOCK})"))
        upgrading.result(timeout=300)
    assert timeouts == ["5s"]
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW lock_timeout")) == "30s"


def _lock_timeout(config: Config) -> str:
    return config.attributes["connection"].scalar(text("SHOW lock_timeout"))
