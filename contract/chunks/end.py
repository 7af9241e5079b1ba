"""The move that ends the remaining chunks of a job that was cancelled or has expired."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from contract import remaining
from contract.chunks.fence import ITS_URIS
from contract.chunks.results import failed_rows, insert_failed
from contract.chunks.state import ChunkState
from contract.database.tables import chunk_uris, chunks
from contract.failure import Failure


def end(connection: Connection, job_number: int, code: str, *, most: int) -> int:
    """Ends up to `most` chunks that no worker runs: each remaining image gets a row with this code.

    The chunks' generation rises, so a worker that ran one of them before, and stores late, can tell
    that another program ended the chunk.

    Returns:
        The number of chunks.
    """
    left = connection.execute(
        select(chunks, chunk_uris.c.uris, chunk_uris.c.refs)
        .join(chunk_uris, ITS_URIS)
        .where(
            chunks.c.job_number == job_number,
            chunks.c.state.in_((ChunkState.PENDING, ChunkState.QUEUED)),
        )
        .limit(most)
        # Skips a chunk that a worker is claiming right now.
        .with_for_update(of=chunks, skip_locked=True)
    ).all()
    if not left:
        return 0
    connection.execute(
        update(chunks)
        .where(
            chunks.c.job_number == job_number,
            chunks.c.chunk.in_([chunk.chunk for chunk in left]),
        )
        .values(
            state=ChunkState.DONE,
            generation=chunks.c.generation + 1,
            worker=None,
            remaining=remaining.encode([]),
            remaining_images=0,
            later=None,
        )
    )
    rows = [
        row
        for chunk in left
        for row in failed_rows(
            chunk,
            remaining.decode(chunk.remaining),
            Failure(code),
            attempts=chunk.attempt,
            worker=None,
        )
    ]
    insert_failed(connection, job_number, rows, code)
    return len(left)
