"""Outcomes as rows of `results`, and a chunk's rows on their way into SQL: in one statement.

Called by the store, within its transaction. No library looks at the rows one by one: on a GPU
that takes thousands of images a second, that alone would keep this process busy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, Dialect

from contract.database.clock import db_now
from contract.database.tables import TOP, results
from contract.failure import Failure
from worker.chunk.claim import Claim
from worker.chunk.outcome import Outcome, Prediction
from worker.process.identity import Identity

# All that a row says, in its order; the time is the database's.
_COLUMNS: Final = tuple(column for column in results.c if column is not results.c.settled_at)

Row = tuple[Any, ...]

_NO_ERROR: Final[Row] = (None, None)
_NO_ANSWER: Final[Row] = (None,) * (2 + 2 * TOP)


def make_rows(claim: Claim, identity: Identity, outcomes: Mapping[int, Outcome]) -> list[Row]:
    """By position; None where there is nothing to say."""
    return [_row(claim, identity, position, outcome) for position, outcome in outcomes.items()]


def insert_rows(connection: Connection, rows: list[Row]) -> None:
    """All of them or, with an error, none."""
    statement = _insert(connection.dialect)
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(statement, (json.dumps(rows),))
    else:
        connection.exec_driver_sql(statement, rows)


def _row(claim: Claim, identity: Identity, position: int, outcome: Outcome) -> Row:
    image, came, result = claim.images[position], outcome.provenance, outcome.result
    error, answer = _NO_ERROR, _NO_ANSWER
    if isinstance(result, Failure):
        error = (result.code, _text(result.detail))
    else:
        answer = _answer(identity, result)
    return (
        claim.message.job_number,
        position,
        image.uri,
        image.ref,
        claim.attempt,
        identity.worker,
        *error,
        _text(came.final_uri),
        came.bytes,
        came.sha256,
        _text(came.format),
        came.width,
        came.height,
        *answer,
    )


def _answer(identity: Identity, prediction: Prediction) -> Row:
    missing = (None,) * (TOP - len(prediction.class_ids))  # of a network of few classes
    return (
        identity.model_number,
        identity.precision,
        *prediction.class_ids,
        *missing,
        *prediction.scores,
        *missing,
    )


@cache
def _insert(dialect: Dialect) -> str:
    """PostgreSQL takes all rows as one text, a list of lists: about as quick as COPY."""
    names = ", ".join(f'"{column.name}"' for column in _COLUMNS)
    now = db_now().compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    into = f'INSERT INTO results ({names}, "settled_at")'
    if dialect.name != "postgresql":
        return f"{into} VALUES ({', '.join('?' * len(_COLUMNS))}, {now})"
    values = ", ".join(
        f"CAST(row ->> {n} AS {column.type.compile(dialect)})" for n, column in enumerate(_COLUMNS)
    )
    rows = "jsonb_array_elements(CAST(%s AS jsonb)) AS row"
    return f"{into} SELECT {values}, {now} FROM {rows}"  # noqa: S608  (our own columns)


def _text(value: str | None) -> str | None:
    """Strangers' text as both databases take it: no NUL, no half of a surrogate pair."""
    if value is None or (value.isascii() and "\x00" not in value):
        return value
    return value.replace("\x00", "\ufffd").encode(errors="replace").decode()
