"""The dispatcher's moves for chunks of a dead worker: take back, count a crash, condemn."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, case, select, tuple_, update

from contract import remaining
from contract.chunks import later
from contract.chunks.fence import GIVEN_BACK, ITS_URIS, OF_CHUNK, Fence
from contract.chunks.results import failed_rows, insert_failed
from contract.chunks.state import ChunkState
from contract.database.clock import db_now
from contract.database.tables import chunk_uris, chunks, jobs, workers
from contract.failure import Failure

# A higher count tells nothing new, and the column is small.
MOST_DEATHS: Final = 1000


def reap(connection: Connection, alive: Select[tuple[str]]) -> int:
    """Makes running chunks pending again if their worker is dead; returns how many.

    The interrupted run does not count as an attempt. It counts as a death of the chunk.
    """
    dead = (
        select(chunks.c.job_number, chunks.c.chunk)
        .where(chunks.c.state == ChunkState.RUNNING, chunks.c.worker.not_in(alive))
        # A worker that hangs in mid-transaction keeps its chunk until the server disconnects it.
        .with_for_update(skip_locked=True)
        .cte("dead")  # evaluated once, whatever the plan
    )
    reaped = connection.execute(
        update(chunks)
        .where(tuple_(chunks.c.job_number, chunks.c.chunk).in_(select(dead)))
        .values(
            state=ChunkState.PENDING,
            due_at=db_now(),
            worker=None,
            attempt=GIVEN_BACK,
            deaths=case((chunks.c.deaths < MOST_DEATHS, chunks.c.deaths + 1), else_=MOST_DEATHS),
        )
        .returning(chunks.c.chunk)
    ).all()
    return len(reaped)


def crashed_alone(connection: Connection) -> Sequence[Row[Any]]:
    """Locks and returns the chunks of which an image ran alone when its worker crashed.

    Each row has the chunk's URIs, its job's `id`, and in `crashed_by` what ended the worker.
    """
    return connection.execute(
        select(chunks, chunk_uris.c.uris, chunk_uris.c.refs, jobs.c.id, workers.c.crashed_by)
        .join(workers, workers.c.name == chunks.c.worker)
        .join(jobs, jobs.c.number == chunks.c.job_number)
        .join(chunk_uris, ITS_URIS)
        .where(
            chunks.c.state == ChunkState.RUNNING,
            chunks.c.alone_generation == chunks.c.generation,
            workers.c.crashed_by.is_not(None),
        )
        .with_for_update(of=chunks, skip_locked=True)
    ).all()


def note_crashes(connection: Connection, chunk: Row[Any], crashes: dict[str, int]) -> None:
    """Records how often each image of the chunk has crashed its worker, by offset."""
    _change(connection, chunk, {"crashes": crashes})


def condemn(connection: Connection, chunk: Row[Any], failure: Failure, *, attempts: int) -> None:
    """Gives the image that ran alone its row. The chunk keeps its other images."""
    offset = chunk.alone_offset
    rows = failed_rows(chunk, [offset], failure, attempts=attempts, worker=chunk.worker)
    insert_failed(connection, chunk.job_number, rows, failure.code)
    left = [other for other in remaining.decode(chunk.remaining) if other != offset]
    values: dict[str, Any] = {
        "remaining": remaining.encode(left),
        "remaining_images": len(left),
    }
    if not later.current(left, chunk.later):
        values |= {"worker": None} | _next_current(chunk)
    _change(connection, chunk, values)


def _next_current(chunk: Row[Any]) -> dict[str, Any]:
    """The values of a chunk without current images: its first waiting group becomes current."""
    first, rest = later.next_of(later.decode(chunk.later))
    if first is None:
        return {"state": ChunkState.DONE}
    return {
        "state": ChunkState.PENDING,
        "attempt": first.attempt,
        "due_at": datetime.fromtimestamp(first.due, UTC),
        "later": later.encode(rest),
    }


def _change(connection: Connection, chunk: Row[Any], values: dict[str, Any]) -> None:
    fence = Fence(chunk.job_number, chunk.chunk, chunk.generation)
    connection.execute(update(chunks).where(*OF_CHUNK).values(values), fence.parameters())
