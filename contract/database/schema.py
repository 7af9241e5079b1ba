"""Which database schemas this program works with.

Revisions are numbers, written with four digits. A program checks the range when it starts.
Migrations make only changes that running programs of the previous version can bear.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, inspect, text

from contract.errors import SchemaMismatch
from contract.settings import PREFIX

OLDEST_SCHEMA: Final = 11
NEWEST_SCHEMA: Final = 11


def revision_of(connection: Connection) -> int:
    """The schema's number; 0 if the database has no schema.

    Raises:
        SchemaMismatch: the schema belongs to another program.
    """
    if not inspect(connection).has_table("alembic_version"):
        return 0
    revision = connection.scalar(text("SELECT version_num FROM alembic_version")) or "0"
    if not revision.isdecimal():
        raise SchemaMismatch(
            f"The database belongs to another program: its revision is {revision}, and those of "
            f"resnext-queue are numbers. Set {PREFIX}DATABASE_URL to another database."
        )
    return int(revision)


def check_upgradable(connection: Connection) -> int:
    """The schema's number; 0 if the database has no schema yet.

    Raises:
        SchemaMismatch: the schema is newer than this program, or belongs to another program.
    """
    found = revision_of(connection)
    if found > NEWEST_SCHEMA:
        check_schema(connection)
    return found


def check_schema(connection: Connection) -> None:
    """
    Raises:
        SchemaMismatch: the schema is outside this program's range, or belongs to another program.
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
