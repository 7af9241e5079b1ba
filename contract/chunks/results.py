"""The only writer of `results`, `tallies` and `class_counts`: inserts rows as tuples, in one
statement.

No library handles the rows one by one. With a GPU that does thousands of images a second, that
alone would keep a worker's main process busy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Row,
    delete,
    insert,
    select,
)

from contract.database.clock import db_now
from contract.database.tables import TOP, results, tallies
from contract.failure import Failure
from contract.stages import Stages

COLUMNS: Final = tuple(column for column in results.c if column is not results.c.settled_at)
"""The columns of a row, in this order. The database sets `settled_at`."""

ResultRow = tuple[Any, ...]
Classes = dict[int, dict[int, int]]
"""Number of images by model number and class id; in JSON, both keys are strings."""
ClassKey = tuple[int, int, int]
"""Job number, model number, class id."""

NO_ERROR: Final[ResultRow] = (None, None)
NOT_FETCHED: Final[ResultRow] = (None,) * 6
NO_ANSWER: Final[ResultRow] = (None,) * (3 + 2 * TOP)
# Nothing needs the number of a new tally.
_TALLY: Final = insert(tallies).inline()
_NAMES: Final = [column.name for column in COLUMNS]
_MODEL: Final = _NAMES.index("model_number")
_CLASS: Final = _NAMES.index("class_1")
# One statement for thousands of counts: a statement for each would take a whole tick.
_INTO_CLASSES: Final = "INSERT INTO class_counts (job_number, model_number, class_id, images)"
_OR_ADD: Final = """
ON CONFLICT (job_number, model_number, class_id)
DO UPDATE SET images = class_counts.images + excluded.images
"""
_ADD_CLASSES: Final = f"{_INTO_CLASSES} VALUES (?, ?, ?, ?) {_OR_ADD}"
_ARRAYS: Final = "SELECT * FROM unnest(%b::int8[], %b::int4[], %b::int2[], %b::int8[])"
_ADD_ARRAYS_OF_CLASSES: Final = f"{_INTO_CLASSES} {_ARRAYS} {_OR_ADD}"


def failed_rows(
    chunk: Row[Any], offsets: Iterable[int], failure: Failure, *, attempts: int, worker: str | None
) -> list[ResultRow]:
    """Rows of failed images of which nothing was fetched.

    `chunk` has the columns of `chunks`, and `uris` and `refs` of `chunk_uris`.
    """
    error = (failure.code, plain(failure.detail) or None)
    return [
        (
            chunk.job_number,
            chunk.first_position + offset,
            chunk.uris[offset],
            chunk.refs[offset] if chunk.refs else None,
            attempts,
            worker,
            *error,
            *NOT_FETCHED,
            *NO_ANSWER,
        )
        for offset in offsets
    ]


def insert_results(connection: Connection, rows: Sequence[ResultRow]) -> None:
    """Inserts all rows or, if it raises, none."""
    if not rows:
        return
    statement = _insert(connection.dialect)
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(statement, (as_text(rows),))
    else:
        connection.exec_driver_sql(statement, list(rows))


def as_text(rows: Sequence[ResultRow]) -> str:
    """Encodes rows as JSON for PostgreSQL. Python's own `json` takes twenty times as long, mostly
    for the scores.
    """
    return orjson.dumps(rows).decode()


def add_tally(  # noqa: PLR0913  (what a tally holds)
    connection: Connection,
    job_number: int,
    *,
    classified: int,
    errors: Mapping[str, int],
    classes: Classes | None = None,
    stages: Stages | None = None,
) -> None:
    """Inserts a tally, which adds one transaction's images to the job's counts once it is folded.

    `classes` counts the `classified` images by class, see `classes_of`; `stages` holds how long all
    images took.
    """
    tally = {
        "job_number": job_number,
        "classified": classified,
        "failed": sum(errors.values()),
        "errors": dict(errors),
        "classes": classes or None,
        "stages": stages or None,
    }
    connection.execute(_TALLY, tally)


def classes_of(rows: Iterable[ResultRow]) -> Classes:
    """Counts these images by model and most likely class."""
    counts: Classes = {}
    for row in rows:
        if row[_CLASS] is not None:
            of_model = counts.setdefault(row[_MODEL], {})
            of_model[row[_CLASS]] = of_model.get(row[_CLASS], 0) + 1
    return counts


def insert_failed(
    connection: Connection, job_number: int, rows: Sequence[ResultRow], code: str
) -> None:
    """Inserts rows that all have the same code, and their tally."""
    if rows:
        insert_results(connection, rows)
        add_tally(connection, job_number, classified=0, errors={code: len(rows)})


def take_tallies(connection: Connection, most: int) -> Sequence[Row[Any]]:
    """Deletes and returns the oldest tallies. Two dispatchers never take the same tally."""
    oldest = (
        select(tallies.c.number)
        .order_by(tallies.c.number)
        .limit(most)
        .with_for_update(skip_locked=True)
        .cte("oldest")  # evaluated once, whatever the plan
    )
    return connection.execute(
        delete(tallies).where(tallies.c.number.in_(select(oldest))).returning(tallies)
    ).all()


def add_class_counts(connection: Connection, counts: Mapping[ClassKey, int]) -> None:
    """Adds images to `class_counts`. The caller must have locked the jobs."""
    rows = [(*key, images) for key, images in sorted(counts.items())]
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        columns = [list(column) for column in zip(*rows, strict=True)]
        connection.exec_driver_sql(_ADD_ARRAYS_OF_CLASSES, tuple(columns))
    else:
        connection.exec_driver_sql(_ADD_CLASSES, rows)


def has_failed(codes: Collection[str]) -> ColumnElement[bool]:
    """Whether a row has one of these error codes; without codes, whether it has any."""
    code = results.c.error_code
    return code.in_(sorted(codes)) if codes else code.is_not(None)


def delete_failed(
    connection: Connection, job_number: int, first: int, images: int, codes: Collection[str]
) -> dict[int, str]:
    """Deletes rows of a chunk's failed images; returns their codes by position."""
    deleted = connection.execute(
        delete(results)
        .where(
            results.c.job_number == job_number,
            results.c.position >= first,
            results.c.position < first + images,
            has_failed(codes),
        )
        .returning(results.c.position, results.c.error_code)
    ).all()
    return {row.position: row.error_code for row in deleted}


def plain(value: str | None) -> str | None:
    """Cleans text from strangers for both databases: no NUL, no half of a surrogate pair."""
    if value is None or (value.isascii() and "\x00" not in value):
        return value
    return value.replace("\x00", "\ufffd").encode(errors="replace").decode()


@cache
def _insert(dialect: Dialect) -> str:
    if dialect.name == "postgresql":
        return insert_from_text(dialect, "%s")
    marks = ", ".join("?" * len(COLUMNS))
    return f"{_into()} VALUES ({marks}, {_now(dialect)})"


def insert_from_text(dialect: Dialect, rows: str, *also_from: str) -> str:
    """SQL for PostgreSQL that inserts rows from one text, a list of lists in JSON. It is about as
    fast as COPY.

    Args:
        dialect: PostgreSQL's.
        rows: the placeholder of the parameter.
        also_from: further tables for FROM; if one of them has no row, nothing is inserted.
    """
    values = ", ".join(
        f"CAST(row ->> {n} AS {column.type.compile(dialect)})" for n, column in enumerate(COLUMNS)
    )
    elements = f"jsonb_array_elements(CAST({rows} AS jsonb)) AS row"
    tables = ", ".join([*also_from, elements])
    return f"{_into()} SELECT {values}, {_now(dialect)} FROM {tables}"  # noqa: S608  (our own)


def _into() -> str:
    names = ", ".join(f'"{column.name}"' for column in COLUMNS)
    return f'INSERT INTO results ({names}, "settled_at")'


def _now(dialect: Dialect) -> str:
    return str(db_now().compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
