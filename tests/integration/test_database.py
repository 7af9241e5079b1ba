"""The two databases behave alike: clock, transactions, schema."""

from datetime import UTC, datetime

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, insert, select

from contract.clock import db_now
from contract.database import connect_database, make_engine, reading
from contract.failure import DatabaseUnavailable, SchemaMismatch
from contract.schema import check_schema
from contract.settings import Settings
from contract.tables import metadata, workers
from migrations.upgrade import upgrade


def test_migrations_give_the_tables_of_the_contract(engine: Engine) -> None:
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


def test_times_survive_the_way_to_the_database_and_back(engine: Engine) -> None:
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


def test_a_database_without_a_schema_is_refused_with_the_command_to_run(tmp_path) -> None:
    path = tmp_path / "empty.db"
    path.touch()
    with pytest.raises(SchemaMismatch, match="resnextq db upgrade"):
        connect_database(Settings(database_url=f"sqlite:///{path}"))


def test_a_mistyped_path_makes_no_empty_database(tmp_path) -> None:
    path = tmp_path / "typo.db"
    with pytest.raises(DatabaseUnavailable, match="no database at"):
        connect_database(Settings(database_url=f"sqlite:///{path}"))
    assert not path.exists()


def test_a_database_that_does_not_answer_is_named_without_its_password() -> None:
    settings = Settings(database_url="postgresql://me:hunter2@127.0.0.1:1/images")
    with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1:1/images does not answer") as it:
        connect_database(settings)
    assert "hunter2" not in str(it.value)


def test_a_schema_that_is_too_new_asks_for_a_newer_program(tmp_path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'new.db'}")
    upgrade(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0999'")
    engine.dispose()
    with pytest.raises(SchemaMismatch, match="0999, too new"):
        connect_database(Settings(database_url=f"sqlite:///{tmp_path / 'new.db'}"))
