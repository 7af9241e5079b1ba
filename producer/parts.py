"""Parts of a job on their way into SQL, each a chunk and its URIs: two statements for many parts.

Called by `submit`, within its transaction. PostgreSQL gets each column as one array: a statement
a row would keep the server, and so the submit, busier than the rows do.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, insert, null

from contract.remaining import all_of
from contract.tables import chunk_uris, chunks

MAX_SHUFFLE: Final = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some images of a job, that are one chunk."""

    chunk: int
    first_position: int
    uris: list[str]
    refs: list[str | None] | None
    """The submitter's own ids; None if no image has one."""


def insert_parts(
    connection: Connection, job_number: int, due_at: datetime, parts: Sequence[Part]
) -> None:
    """All of them or, with an error, none."""
    if connection.dialect.name == "postgresql":
        _insert_arrays(connection, job_number, due_at, parts)
        return
    job = {"job_number": job_number}
    beginning = _BEGINNING | {"due_at": due_at}
    connection.execute(insert(chunks), [job | _chunk_row(part) | beginning for part in parts])
    connection.execute(insert(chunk_uris), [job | _uris_row(part) for part in parts])


_BEGINNING: Final[dict[str, Any]] = {"state": "pending", "generation": 0, "attempt": 0, "deaths": 0}


def _chunk_row(part: Part) -> dict[str, Any]:
    return {
        "chunk": part.chunk,
        "first_position": part.first_position,
        "images": len(part.uris),
        "shuffle": secrets.randbelow(MAX_SHUFFLE + 1),
        "remaining": all_of(len(part.uris)),
        "remaining_images": len(part.uris),
    }


def _uris_row(part: Part) -> dict[str, Any]:
    refs = null() if part.refs is None else part.refs
    return {"chunk": part.chunk, "uris": part.uris, "refs": refs}


# Arrays in PostgreSQL's binary form, %b, so that nothing of them is escaped.
_INSERT_CHUNKS: Final = """
INSERT INTO chunks (job_number, state, generation, attempt, deaths, due_at,
                    chunk, first_position, images, shuffle, remaining, remaining_images)
SELECT %s, 'pending', 0, 0, 0, %s, one.*
FROM unnest(%b::int4[], %b::int8[], %b::int2[], %b::int4[], %b::bytea[], %b::int2[]) AS one
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
    uris = [json.dumps(part.uris) for part in parts]
    refs = [None if part.refs is None else json.dumps(part.refs) for part in parts]
    connection.exec_driver_sql(_INSERT_URIS, (job_number, numbers, uris, refs))
