"""Which schemas of the database this program works with.

Revisions are numbers, written with four digits. A program checks the range when it starts;
migrations keep to what running programs of the range before can bear.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, inspect, text

from contract.errors import SchemaMismatch
from contract.settings import PREFIX

OLDEST_SCHEMA: Final = 6
NEWEST_SCHEMA: Final = 6


def revision_of(connection: Connection) -> int:
    """The schema's number; 0 where there is none.

    Raises:
        SchemaMismatch: the schema is another program's.
    """
    if not inspect(connection).has_table("alembic_version"):
        return 0
    revision = connection.scalar(text("SELECT version_num FROM alembic_version")) or "0"
    if not revision.isdecimal():
        raise SchemaMismatch(
            f"The database belongs to another program: its revision is {revision}, and those of "
            f"resnext-queue are numbers. Give {PREFIX}DATABASE_URL a database of its own."
        )
    return int(revision)


def check_upgradable(connection: Connection) -> int:
    """The schema's number, 0 where there is none yet.

    Raises:
        SchemaMismatch: the schema is newer than this program, or another program's.
    """
    found = revision_of(connection)
    if found > NEWEST_SCHEMA:
        check_schema(connection)
    return found


def check_schema(connection: Connection) -> None:
    """
    Raises:
        SchemaMismatch: the schema is outside the range of this program, or another program's.
    """
    found = revision_of(connection)
    expected = f"this program works with schema {OLDEST_SCHEMA:04} to {NEWEST_SCHEMA:04}"
    if found == 0:
        raise SchemaMismatch(
            f"The database has no schema yet; {expected}. Run `resnextq db upgrade`."
        )
    if found < OLDEST_SCHEMA:
        raise SchemaMismatch(
            f"The database's schema is {found:04}, too old: {expected}. Run `resnextq db upgrade`."
        )
    if found > NEWEST_SCHEMA:
        raise SchemaMismatch(
            f"The database's schema is {found:04}, too new: {expected}. "
            "Upgrade resnext-queue on this machine."
        )
