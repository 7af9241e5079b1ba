"""The only writer of `thumbnails`: workers insert, the leading dispatcher deletes old ones.

A row is inserted from the image's row in `results`: only after that row is stored, and only while
the job exists. An image has at most one thumbnail; a later one replaces it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import (
    Connection,
    Integer,
    LargeBinary,
    bindparam,
    cast,
    delete,
    func,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite

from contract.database.clock import db_now
from contract.database.tables import results, thumbnails

A_CLASS: Final = 2
"""An image outside the sample gets a thumbnail if its class has fewer thumbnails than this."""
# Some megabytes; other transactions wait for tens of milliseconds.
DELETED_AT_ONCE: Final = 1_000


class ThumbnailRow(NamedTuple):
    job_number: int
    position: int
    sampled: bool
    """False: the image is outside the sample; the thumbnail is for its class."""
    jpeg: bytes


_ITS_CLASS: Final = thumbnails.alias("its_class")
_WITH_ITS_CLASS: Final = (
    select(func.count())
    .select_from(_ITS_CLASS)
    .where(
        _ITS_CLASS.c.job_number == results.c.job_number, _ITS_CLASS.c.class_id == results.c.class_1
    )
    .scalar_subquery()
)
_STORED: Final = select(
    results.c.job_number,
    results.c.position,
    results.c.class_1,
    db_now(),
    cast(bindparam("the_jpeg"), LargeBinary),
).where(
    results.c.job_number == bindparam("the_job"),
    results.c.position == bindparam("the_position"),
    or_(cast(bindparam("is_sampled"), Integer) == 1, _WITH_ITS_CLASS < A_CLASS),
)
_COLUMNS: Final = ("job_number", "position", "class_id", "created_at", "jpeg")
_KEY: Final = ("job_number", "position")


def insert_thumbnails(connection: Connection, rows: Sequence[ThumbnailRow]) -> None:
    """Inserts rows. Leaves out images without a result, and classes that have enough thumbnails."""
    if not rows:
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    inserted = dialect.insert(thumbnails).from_select(_COLUMNS, _STORED)
    replaced = {name: inserted.excluded[name] for name in _COLUMNS if name not in _KEY}
    connection.execute(
        inserted.on_conflict_do_update(index_elements=_KEY, set_=replaced),
        [
            {
                "the_job": row.job_number,
                "the_position": row.position,
                "is_sampled": int(row.sampled),
                "the_jpeg": row.jpeg,
            }
            for row in rows
        ],
    )


def delete_old(connection: Connection, older_than_s: float, most: int = DELETED_AT_ONCE) -> int:
    """Deletes the oldest thumbnails that are older than this; returns how many."""
    oldest = (
        select(thumbnails.c.job_number, thumbnails.c.position)
        .where(thumbnails.c.created_at < db_now(-older_than_s))
        .order_by(thumbnails.c.created_at)
        .limit(most)
    )
    key = tuple_(thumbnails.c.job_number, thumbnails.c.position)
    return connection.execute(delete(thumbnails).where(key.in_(oldest))).rowcount
