"""Makes engines for PostgreSQL and SQLite that behave alike.

SQLite has a write-ahead log. Each writing transaction takes the write lock when it begins, so none
fails half-way because it read before it wrote. On PostgreSQL a dead connection is detected and
replaced, and each wait for a lock has a timeout; both also hold behind a pooler such as PgBouncer.
`contract.database.address` reads the URL.
"""

from __future__ import annotations

import select
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, DBAPIError, DisconnectionError, OperationalError

from contract.database.address import PREPARE_THRESHOLD, database_address, options_of, read_url
from contract.database.schema import check_schema
from contract.database.space import make_shrinkable
from contract.errors import DatabaseUnavailable
from contract.settings import PREFIX, Settings

# How long a writer waits for SQLite's lock; transactions here take milliseconds.
SQLITE_BUSY_S = 30.0
CONNECT_TIMEOUT_S = 5
# Gives up PostgreSQL behind a network that drops packets after about 25 s, before a worker's lease
# ends. By default the kernel tries for 15 minutes, and on an idle connection for ever.
TCP_OPTIONS = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,  # milliseconds
}
# As long as SQLite's writers wait; only a suspended process holds a lock for so long.
LOCK_TIMEOUT_S = 30.0
# After this the suspended process loses its lock. This program never waits for anything between two
# statements of a transaction.
IDLE_IN_TRANSACTION_S = 60.0
# Execution options.
LOCK_TIMEOUT_OPTION = "resnext_lock_timeout_s"
"""On a connection: how long its transactions wait for a lock, instead of `LOCK_TIMEOUT_S`."""
_READ_ONLY = "resnext_read_only"
# In a connection's `info`: whether a pooler stands between it and the server.
_POOLED = "resnext_pooled"


def connect_database(settings: Settings, **options: Any) -> Engine:  # noqa: ANN401  (SQLAlchemy's)
    """Makes an engine, and checks that the database answers and that its schema fits.

    Raises:
        DatabaseUnavailable: the database does not answer.
        SchemaMismatch: the schema is outside this program's range.
    """
    engine = make_engine(settings.database(), **options)
    _check_file_exists(engine)
    with reaching_database(engine), reading(engine) as connection:
        check_schema(connection)
    return engine


def make_engine(url: str, **options: Any) -> Engine:  # noqa: ANN401  (SQLAlchemy's own options)
    """Makes an engine, which does not connect yet.

    Raises:
        SettingsError: the URL cannot be read, or has an option that does not exist.
    """
    parsed = read_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed, options)
    return _postgresql_engine(parsed, options)


def _postgresql_engine(url: URL, options: dict[str, Any]) -> Engine:
    arguments = {"connect_timeout": CONNECT_TIMEOUT_S} | TCP_OPTIONS | options_of(url)
    engine = create_engine(url, connect_args=arguments, **options)

    def prepare(connection: Any, record: Any) -> None:  # noqa: ANN401  (a DBAPI connection)
        record.info[_POOLED] = _is_pooled(connection)
        if record.info[_POOLED] and PREPARE_THRESHOLD not in arguments:
            connection.prepare_threshold = None

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", _begin_postgresql)
    event.listen(engine, "checkout", _check_quiet)
    return engine


def _sqlite_engine(url: URL, options: dict[str, Any]) -> Engine:
    arguments = {"timeout": SQLITE_BUSY_S, "check_same_thread": False} | options_of(url)
    engine = create_engine(url, connect_args=arguments, **options)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _check_file_exists(engine: Engine) -> None:
    """Refuses a missing file: with a mistyped path, SQLite would make an empty database."""
    path = engine.url.database
    if engine.dialect.name == "sqlite" and path and not Path(path).exists():
        raise DatabaseUnavailable(
            f"There is no database at {path}. `resnextq up` makes it in its first seconds, "
            f"and `resnextq db upgrade` at once; or correct {PREFIX}DATABASE_URL."
        )


@contextmanager
def reaching_database(engine: Engine) -> Iterator[None]:
    """Turns the errors of an unreachable database into an error for the user."""
    try:
        yield
    except OperationalError as error:
        if is_full(error):
            raise _full(engine) from error
        where = database_address(engine)
        reason = str(error.orig).strip().splitlines()[0]
        raise DatabaseUnavailable(
            f"The database {where} does not answer: {reason}. "
            f"Start it, or correct {PREFIX}DATABASE_URL."
        ) from error
    except DatabaseError as error:
        if not _is_refusal(error):
            raise
        where = database_address(engine)
        reason = str(error.orig).strip().splitlines()[0]
        raise DatabaseUnavailable(
            f"The database {where} cannot be used: {reason}. "
            f"Correct {PREFIX}DATABASE_URL, or the rights of its user."
        ) from error


def is_full(error: DBAPIError) -> bool:
    """Whether the disk is full: SQLITE_FULL, or PostgreSQL's 53100."""
    full = getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return full or getattr(error.orig, "sqlstate", None) == "53100"


def _full(engine: Engine) -> DatabaseUnavailable:
    where = database_address(engine)
    return DatabaseUnavailable(
        f"The disk of the database {where} is full. Make room on it, and try again. Workers and "
        "dispatcher continue by themselves."
    )


def _is_refusal(error: DatabaseError) -> bool:
    """Whether the database refuses to work: the file is not an SQLite database, the PostgreSQL user
    lacks the rights (42501), or the server has ended the connection.
    """
    without_rights = getattr(error.orig, "sqlstate", None) == "42501"
    return type(error) is DatabaseError or without_rights or error.connection_invalidated


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads; on SQLite it does not block writers."""
    with engine.connect().execution_options(**{_READ_ONLY: True}) as connection:
        yield connection


@contextmanager
def one_statement(engine: Engine) -> Iterator[Connection]:
    """A connection for one statement that writes. On PostgreSQL the statement commits itself, which
    takes one round trip instead of three. On SQLite, and behind a pooler, where each transaction
    must set its timeouts first, the statement has a transaction.
    """
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql" and not connection.info.get(_POOLED):
            yield connection.execution_options(isolation_level="AUTOCOMMIT")
        else:
            with connection.begin():
                yield connection


def _is_pooled(connection: Any) -> bool:  # noqa: ANN401  (a DBAPI connection)
    """Whether the connection goes through a pooler. Without a pooler, sets the session's timeouts.

    Behind a pooler each transaction may run in another session. A session's settings would then
    affect other programs, and a prepared statement would be missing or exist twice. A pooler gives
    its clients invented process ids, so one statement can check for a pooler and set the timeouts.
    """
    timeouts = _timeouts(LOCK_TIMEOUT_S, local=False)
    row = connection.execute(
        f"SELECT CASE WHEN pg_backend_pid() = %s THEN concat({timeouts}) END",
        [connection.info.backend_pid],
    ).fetchone()
    connection.commit()
    return row[0] is None


def _begin_postgresql(connection: Connection) -> None:
    """Sets the timeouts of one transaction, if the session's are not ours or not the right ones.

    It does so in SQL, because a pooler refuses such options when a connection begins.
    """
    lock_timeout_s = connection.get_execution_options().get(LOCK_TIMEOUT_OPTION)
    if connection.info.get(_POOLED) or lock_timeout_s is not None:
        wanted_s = LOCK_TIMEOUT_S if lock_timeout_s is None else lock_timeout_s
        connection.exec_driver_sql(f"SELECT {_timeouts(wanted_s, local=True)}")


def _timeouts(lock_timeout_s: float, *, local: bool) -> str:
    """Two SQL calls that set timeouts for the session or, if `local`, for the transaction."""
    settings = {
        "lock_timeout": lock_timeout_s,
        "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_S,
    }
    return ", ".join(
        f"set_config('{name}', '{seconds * 1000:.0f}ms', {str(local).lower()})"
        for name, seconds in settings.items()
    )


def _check_quiet(connection: Any, _record: object, _proxy: object) -> None:  # noqa: ANN401
    """Checks that a connection is alive. If the server has ended it, or the kernel has given it up,
    it has something to read; a healthy connection has nothing. SQLAlchemy's `pool_pre_ping` asks
    the server instead, which costs as much as a statement.

    Raises:
        DisconnectionError: the connection is dead; SQLAlchemy makes another one.
    """
    if connection.closed:
        raise DisconnectionError
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    if waiting.poll(0):
        raise DisconnectionError


def _prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401  (a DBAPI connection)
    connection.isolation_level = None  # `_begin_sqlite` sends BEGIN
    cursor = connection.cursor()
    make_shrinkable(cursor)  # must come before the log, which writes the file's first page
    cursor.execute("PRAGMA journal_mode = WAL")
    # With a write-ahead log, only FULL guarantees that a reported commit survives.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
