"""Reads the settings, opens the database and finds the job of a command."""

# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from contract.settings import Settings
    from producer.jobs.job import Job


def read_settings(**overrides: Any) -> Settings:  # noqa: ANN401  (any field's type)
    from contract.settings import load_settings

    return load_settings(**overrides)


def log_in_json_if_set() -> None:
    """If settings are invalid, logs this in the configured log format."""
    from contract.log import log_in_json
    from contract.settings import LogFormat

    try:
        wanted = LogFormat()
    except (UnicodeDecodeError, OSError):  # from `.env`; `read_settings` reports it
        wanted = LogFormat(_env_file=None)
    if wanted.log_format == "json":
        log_in_json()


@contextmanager
def open_database(settings: Settings) -> Iterator[Engine]:
    """An engine on a database with a supported schema.

    Raises:
        DatabaseUnavailable: the database does not answer, now or inside the `with` block.
        SchemaMismatch: its schema is outside this program's range.
    """
    from contract.database.engine import connect_database, reaching_database

    engine = connect_database(settings)
    try:
        with reaching_database(engine):
            yield engine
    finally:
        engine.dispose()


def read_job(engine: Engine, text: str) -> Job:
    from contract.database.engine import reading
    from producer.jobs.job import find_job

    with reading(engine) as connection:
        return find_job(connection, text)
