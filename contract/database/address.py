"""Reads a database's URL, and shows it without its passwords.

`contract.database.engine` makes engines from the result of `read_url`. Every message and log line
that names a database uses `database_address`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import URL, Engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from contract.errors import SettingsError
from contract.settings import PREFIX

PREPARE_THRESHOLD: Final = "prepare_threshold"
"""An option of psycopg: how often a statement is executed before the server prepares it."""
NEVER: Final = "none"
_WHOLE_NUMBERS: Final = frozenset(
    (
        "connect_timeout",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "port",
        "tcp_user_timeout",
        PREPARE_THRESHOLD,
    )
)
# SQLAlchemy takes a list of servers as one option per server.
_REPEATED: Final = frozenset(("host", "port"))
_SQLITE_OPTIONS: Final = {
    "timeout": float,
    "cached_statements": int,
    "detect_types": int,
}
# The scheme, a user, and a password up to its first `@`.
_PASSWORD: Final = re.compile(r"[\w+]+://[^:/]*:[^@]*@")


def read_url(url: str) -> URL:
    """Reads a URL. Refuses one in which the password's end is not clear.

    Raises:
        SettingsError: the URL cannot be read. The message shows no part of it, because what was
            misread may be part of the password.
    """
    advice = (
        f"{PREFIX}DATABASE_URL cannot be read as a URL; write "
        "postgresql://user:password@host:port/database or sqlite:////absolute/path; "
        "in a password, write @ : / ? # as %40 %3A %2F %3F %23."
    )
    password = _PASSWORD.match(url)
    if password is not None and "@" in url[password.end() :]:
        raise SettingsError(advice)
    try:
        return make_url(url)
    except (ArgumentError, ValueError) as error:
        raise SettingsError(advice) from error


def database_address(database: Engine | URL) -> str:
    """The URL without any of its passwords, for messages.

    It names no driver, so that other programs such as psql accept it. A path stays unchanged.
    """
    url = database.url if isinstance(database, Engine) else database
    if url.get_backend_name() == "sqlite" and not url.query:
        return f"sqlite:///{url.database}"
    hidden = [name for name in url.query if "password" in name]
    plain = url.set(drivername=url.get_backend_name()).difference_update_query(hidden)
    return plain.render_as_string(hide_password=True)


def options_of(url: URL) -> dict[str, Any]:
    """The URL's options that are not text, converted for the driver.

    Raises:
        SettingsError: the driver has no such option, or its value is wrong.
    """
    is_sqlite = url.get_backend_name() == "sqlite"
    return dict(_sqlite_options(url) if is_sqlite else _postgresql_options(url))


def _postgresql_options(url: URL) -> Iterator[tuple[str, Any]]:
    from psycopg.pq import Conninfo  # noqa: PLC0415  (not needed for SQLite)

    known = {option.keyword.decode() for option in Conninfo.get_defaults()} | {PREPARE_THRESHOLD}
    for name, value in url.query.items():
        if name not in known:
            raise SettingsError(
                f"{PREFIX}DATABASE_URL has the option {name}, which neither PostgreSQL's driver "
                f"nor psycopg knows. Remove it, or correct its name."
            )
        if not isinstance(value, str):
            if name not in _REPEATED:
                raise SettingsError(f"{PREFIX}DATABASE_URL has the option {name} more than once.")
        elif name == PREPARE_THRESHOLD and value.lower() == NEVER:
            yield name, None
        elif name in _WHOLE_NUMBERS:
            yield name, _whole_number(name, value)


def _whole_number(name: str, value: str) -> int:
    if value.isdecimal() and value.isascii():
        return int(value)
    otherwise = f", or {NEVER}" if name == PREPARE_THRESHOLD else ""
    raise SettingsError(
        f"In {PREFIX}DATABASE_URL the option {name} must be a whole number{otherwise}, "
        f"got {value!r}."
    )


def _sqlite_options(url: URL) -> Iterator[tuple[str, Any]]:
    for name, number in _SQLITE_OPTIONS.items():
        value = url.query.get(name)
        if value is None:
            continue
        try:
            yield name, number(value)
        except (TypeError, ValueError) as error:
            raise SettingsError(
                f"In {PREFIX}DATABASE_URL the option {name} must be a number, got {value!r}."
            ) from error
