"""Engines for the two databases that are supported, set up so that they behave alike.

SQLite: write-ahead log, and transactions that take the write lock at their beginning, so
that none fails half-way for having read before it wrote. PostgreSQL: a connection that died
with its server is noticed and replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError

from contract.failure import DatabaseUnavailable
from contract.schema import check_schema
from contract.settings import PREFIX, Settings

# Half of SQLite's writers wait this long for the others; transactions here take milliseconds.
SQLITE_BUSY_S = 30.0
CONNECT_TIMEOUT_S = 5
_READ_ONLY = "resnext_read_only"


def connect_database(settings: Settings) -> Engine:
    """An engine for a database that answers and whose schema fits.

    Raises:
        DatabaseUnavailable: it does not answer.
        SchemaMismatch: its schema is outside this program's range.
    """
    engine = make_engine(settings.database())
    _check_file_exists(engine)
    with reaching_database(engine), reading(engine) as connection:
        check_schema(connection)
    return engine


def make_engine(url: str, **options: Any) -> Engine:  # noqa: ANN401  (SQLAlchemy's own options)
    """An engine; nothing is connected yet."""
    if not url.startswith("sqlite"):
        return create_engine(
            url,
            pool_pre_ping=True,
            connect_args={"connect_timeout": CONNECT_TIMEOUT_S},
            **options,
        )
    engine = create_engine(
        url,
        connect_args={"timeout": SQLITE_BUSY_S, "check_same_thread": False},
        **options,
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _check_file_exists(engine: Engine) -> None:
    """SQLite would make an empty database of a mistyped path."""
    path = engine.url.database
    if engine.dialect.name == "sqlite" and path and not Path(path).exists():
        raise DatabaseUnavailable(
            f"There is no database at {path}. Make it with `resnextq db upgrade` or "
            f"`resnextq up`, or correct {PREFIX}DATABASE_URL."
        )


@contextmanager
def reaching_database(engine: Engine) -> Iterator[None]:
    """Turns a database that cannot be reached into an error for people."""
    try:
        yield
    except OperationalError as error:
        where = engine.url.render_as_string(hide_password=True)
        reason = str(error.orig).strip().splitlines()[0]
        raise DatabaseUnavailable(
            f"The database {where} does not answer: {reason}. "
            f"Start it, or correct {PREFIX}DATABASE_URL."
        ) from error


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads; on SQLite it keeps no writer waiting."""
    with engine.connect().execution_options(**{_READ_ONLY: True}) as connection:
        yield connection


def _prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401  (a DBAPI connection)
    connection.isolation_level = None  # BEGIN is ours to say
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    # With a write-ahead log, FULL is what keeps a commit that was reported.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
