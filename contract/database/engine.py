"""Engines for the two databases that are supported, set up so that they behave alike.

SQLite: write-ahead log, and transactions that take the write lock at their beginning, so
that none fails half-way for having read before it wrote. PostgreSQL: a connection that died
with its server or on the way is noticed and replaced, and nobody is waited for without end.
"""

from __future__ import annotations

import select
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    DisconnectionError,
    OperationalError,
)

from contract.database.schema import check_schema
from contract.errors import DatabaseUnavailable, SettingsError
from contract.settings import PREFIX, Settings

# Half of SQLite's writers wait this long for the others; transactions here take milliseconds.
SQLITE_BUSY_S = 30.0
CONNECT_TIMEOUT_S = 5
# PostgreSQL behind a network that drops packets: given up after about 25 s, before a worker's
# lease is over. Without it the kernel tries for 15 minutes, and on an idle connection for ever.
TCP_OPTIONS = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,  # milliseconds
}
# As long as SQLite's writers wait; only a process that was stopped holds a lock for so long.
LOCK_TIMEOUT_S = 30.0
# And then it loses it. Between two statements of a transaction nothing here waits for anything.
IDLE_IN_TRANSACTION_S = 60.0
_READ_ONLY = "resnext_read_only"


def connect_database(settings: Settings, **options: Any) -> Engine:  # noqa: ANN401  (SQLAlchemy's)
    """An engine for a database that answers and whose schema fits.

    Raises:
        DatabaseUnavailable: it does not answer.
        SchemaMismatch: its schema is outside this program's range.
    """
    engine = make_engine(settings.database(), **options)
    _check_file_exists(engine)
    with reaching_database(engine), reading(engine) as connection:
        check_schema(connection)
    return engine


def make_engine(url: str, **options: Any) -> Engine:  # noqa: ANN401  (SQLAlchemy's own options)
    """An engine; nothing is connected yet.

    Raises:
        SettingsError: the URL cannot be read as one.
    """
    try:
        query = make_url(url).query
    except (ArgumentError, ValueError) as error:
        # What was misread may be a piece of the password, so it is not shown.
        raise SettingsError(
            f"{PREFIX}DATABASE_URL cannot be read as a URL, which is "
            "postgresql://user:password@host:port/database or sqlite:////absolute/path; "
            "in a password, @ : / ? # are written as %40 %3A %2F %3F %23."
        ) from error
    if not url.startswith("sqlite"):
        arguments = {"connect_timeout": CONNECT_TIMEOUT_S} | TCP_OPTIONS
        engine = create_engine(
            url,
            connect_args={name: arguments[name] for name in arguments if name not in query},
            **options,
        )
        event.listen(engine, "connect", _prepare_postgresql)
        event.listen(engine, "checkout", _check_quiet)
        return engine
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
        if is_full(error):
            raise _full(engine) from error
        where = engine.url.render_as_string(hide_password=True)
        reason = str(error.orig).strip().splitlines()[0]
        raise DatabaseUnavailable(
            f"The database {where} does not answer: {reason}. "
            f"Start it, or correct {PREFIX}DATABASE_URL."
        ) from error
    except DatabaseError as error:
        if not _is_refusal(error):
            raise
        where = engine.url.render_as_string(hide_password=True)
        reason = str(error.orig).strip().splitlines()[0]
        raise DatabaseUnavailable(
            f"The database {where} cannot be used: {reason}. "
            f"Correct {PREFIX}DATABASE_URL, or what its user may do."
        ) from error


def is_full(error: DBAPIError) -> bool:
    """There is no room for what was to be written: SQLITE_FULL, or 53100 of PostgreSQL."""
    full = getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return full or getattr(error.orig, "sqlstate", None) == "53100"


def _full(engine: Engine) -> DatabaseUnavailable:
    where = engine.url.render_as_string(hide_password=True)
    return DatabaseUnavailable(
        f"The disk of the database {where} is full. Make room on it, and try again; workers and "
        "dispatcher go on by themselves."
    )


def _is_refusal(error: DatabaseError) -> bool:
    """A file that is no SQLite database, a PostgreSQL user without the rights (42501), or a
    server that has ended the connection.
    """
    without_rights = getattr(error.orig, "sqlstate", None) == "42501"
    return type(error) is DatabaseError or without_rights or error.connection_invalidated


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads; on SQLite it keeps no writer waiting."""
    with engine.connect().execution_options(**{_READ_ONLY: True}) as connection:
        yield connection


def _prepare_postgresql(connection: Any, _record: object) -> None:  # noqa: ANN401  (the same)
    """Said in SQL: a pooler between us and the server refuses options at the start."""
    connection.execute(
        "SELECT set_config('lock_timeout', %s, false),"
        " set_config('idle_in_transaction_session_timeout', %s, false)",
        [f"{LOCK_TIMEOUT_S * 1000:.0f}ms", f"{IDLE_IN_TRANSACTION_S * 1000:.0f}ms"],
    )
    connection.commit()


def _check_quiet(connection: Any, _record: object, _proxy: object) -> None:  # noqa: ANN401
    """Where a server has ended a connection, or the kernel has given it up, there is something to
    read, and nothing where all is well. SQLAlchemy's `pool_pre_ping` asks the server instead, which
    costs as much as a statement of its own.

    Raises:
        DisconnectionError: it is dead; SQLAlchemy makes another one.
    """
    if connection.closed:
        raise DisconnectionError
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    if waiting.poll(0):
        raise DisconnectionError


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
