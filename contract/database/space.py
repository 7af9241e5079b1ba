"""Returns the space of deleted rows in an SQLite file to the file system.

SQLite keeps free pages in its file and uses them again. A file made with `auto_vacuum = 2`, as all
files of this program are, can be shortened piece by piece. PostgreSQL's autovacuum makes room for
new rows by itself, so nothing is done for PostgreSQL here.
"""

from __future__ import annotations

import sqlite3
import time
from typing import Final

from sqlalchemy import Engine

INCREMENTAL: Final = 2
"""SQLite's `auto_vacuum`: free pages leave the file on command."""


def make_shrinkable(cursor: sqlite3.Cursor) -> None:
    """Makes the file shrinkable, if the database has no table yet.

    It checks first, because setting this takes the write lock of a database in use.
    """
    if cursor.execute("PRAGMA page_count").fetchone()[0] == 0:
        cursor.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")


def free_bytes(engine: Engine) -> int:
    """The free bytes in the file of an SQLite database; 0 for PostgreSQL."""
    if engine.dialect.name != "sqlite":
        return 0
    return _pragma(engine, "freelist_count") * _pragma(engine, "page_size")


def can_shrink(engine: Engine) -> bool:
    """Whether `give_back_some` has anything to do."""
    return engine.dialect.name == "sqlite" and _pragma(engine, "auto_vacuum") == INCREMENTAL


def give_back_some(engine: Engine, pages: int) -> float:
    """Cuts up to `pages` free pages off the file of an SQLite database that can shrink. Returns how
    long other transactions had to wait for it, in seconds.
    """
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        began = time.monotonic()
        # `execute` would take only one step of the statement, which frees one page.
        cursor.executescript(f"PRAGMA incremental_vacuum({int(pages)})")
        return time.monotonic() - began
    finally:
        connection.close()


def write_back(engine: Engine) -> None:
    """Writes the log of an SQLite database back, so that its file gets its new size. The size does
    not change while another program reads pages that are still in the log.
    """
    connection = engine.raw_connection()
    try:
        connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    finally:
        connection.close()


def _pragma(engine: Engine, name: str) -> int:
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA {name}")
        ((value,),) = cursor.fetchall()
        return int(value)
    finally:
        connection.close()
