"""The first move of a chunk: inserts chunks with their URIs, many chunks in two statements.

Submit calls this within its transaction. An image that workers would refuse has failed already,
and gets its row in `results` at once. PostgreSQL gets each column as one array, because with one
statement per row the statements would cost more than the rows.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Text, bindparam, insert

from contract.chunks.results import NO_ANSWER, NOT_FETCHED, ResultRow, insert_results, plain
from contract.chunks.state import ChunkState
from contract.database.tables import chunk_uris, chunks
from contract.failure import Failure
from contract.remaining import all_of, encode

MAX_SHUFFLE: Final = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Part:
    """Images of a job that become one chunk."""

    chunk: int
    first_position: int
    images: int
    uris: str
    """A list in JSON, encoded before the transaction begins, to keep the transaction short."""
    refs: str | None
    """The submitter's own ids, as a list in JSON; None if no image has one."""
    failed: Mapping[int, Failure] = field(default_factory=dict)
    """Images that have failed already, by offset."""


def insert_parts(
    connection: Connection, job_number: int, due_at: datetime, parts: Sequence[Part]
) -> None:
    """Inserts all parts or, if it raises, none. The caller updates the job's counts."""
    insert_results(connection, [row for part in parts for row in _rows_of(part, job_number)])
    if connection.dialect.name == "postgresql":
        _insert_arrays(connection, job_number, due_at, parts)
        return
    job: dict[str, Any] = {"job_number": job_number}
    beginning = _BEGINNING | {"due_at": due_at}
    connection.execute(insert(chunks), [job | beginning | _chunk_row(part) for part in parts])
    rows = [job | {"chunk": part.chunk, "uris": part.uris, "refs": part.refs} for part in parts]
    connection.execute(_INSERT_TEXTS, rows)


# The values are already JSON.
_INSERT_TEXTS: Final = insert(chunk_uris).values(
    uris=bindparam("uris", type_=Text()), refs=bindparam("refs", type_=Text())
)
_BEGINNING: Final[dict[str, Any]] = {
    "generation": 0,
    "attempt": 0,
    "deaths": 0,
}


def _chunk_row(part: Part) -> dict[str, Any]:
    left = part.images - len(part.failed)
    remaining = all_of(part.images)
    if part.failed:
        remaining = encode(offset for offset in range(part.images) if offset not in part.failed)
    return {
        "chunk": part.chunk,
        "first_position": part.first_position,
        "images": part.images,
        "shuffle": secrets.randbelow(MAX_SHUFFLE + 1),
        "remaining": remaining,
        "remaining_images": left,
        "state": (ChunkState.PENDING if left else ChunkState.DONE).value,
    }


def _rows_of(part: Part, job_number: int) -> list[ResultRow]:
    if not part.failed:
        return []
    uris = json.loads(part.uris)
    refs = json.loads(part.refs) if part.refs else None
    return [
        (
            job_number,
            part.first_position + offset,
            uris[offset],
            refs[offset] if refs else None,
            0,
            None,
            failure.code,
            plain(failure.detail),
            *NOT_FETCHED,
            *NO_ANSWER,
        )
        for offset, failure in part.failed.items()
    ]


# %b passes arrays in PostgreSQL's binary form, so nothing in them must be escaped.
_INSERT_CHUNKS: Final = """
INSERT INTO chunks (job_number, generation, attempt, deaths, due_at,
                    chunk, first_position, images, shuffle, remaining, remaining_images, state)
SELECT %s, 0, 0, 0, %s, one.*
FROM unnest(%b::int4[], %b::int8[], %b::int2[], %b::int4[], %b::bytea[], %b::int2[], %b::text[])
    AS one
"""
_INSERT_URIS: Final = """
INSERT INTO chunk_uris (job_number, chunk, uris, refs)
SELECT %s, one.chunk, one.uris::json, one.refs::json
FROM unnest(%b::int4[], %b::text[], %b::text[]) AS one (chunk, uris, refs)
"""


def _insert_arrays(
    connection: Connection, job_number: int, due_at: datetime, parts: Sequence[Part]
) -> None:
    rows = [_chunk_row(part) for part in parts]
    columns = [[row[name] for row in rows] for name in rows[0]]
    connection.exec_driver_sql(_INSERT_CHUNKS, (job_number, due_at, *columns))
    numbers = [part.chunk for part in parts]
    uris, refs = [part.uris for part in parts], [part.refs for part in parts]
    connection.exec_driver_sql(_INSERT_URIS, (job_number, numbers, uris, refs))
