"""The move that ends what is left of a job that was cancelled or has expired."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from contract import remaining
from contract.chunks.fence import ITS_URIS
from contract.chunks.results import failed_rows, insert_failed
from contract.chunks.state import ChunkState
from contract.database.tables import chunk_uris, chunks
from contract.failure import Failure


def end(connection: Connection, job_number: int, code: str, *, most: int) -> int:
    """Gives each image of some chunks that no worker runs a row with this code.

    Their generation rises: a worker that ran one of them before and comes late can tell that it
    was not its own store that has ended the chunk.

    Returns:
        The number of chunks, `most` of them at most.
    """
    left = connection.execute(
        select(chunks, chunk_uris.c.uris, chunk_uris.c.refs)
        .join(chunk_uris, ITS_URIS)
        .where(
            chunks.c.job_number == job_number,
            chunks.c.state.in_((ChunkState.PENDING, ChunkState.QUEUED)),
        )
        .limit(most)
        # One that is just being claimed is its worker's.
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
