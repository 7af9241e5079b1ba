"""The user's move: runs failed images of done chunks again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from sqlalchemy import Connection, Row, exists, select, update

from contract import remaining
from contract.chunks.results import delete_failed, has_failed
from contract.chunks.state import ChunkState
from contract.database.clock import db_now
from contract.database.tables import chunks, results


def done_with_failures(
    connection: Connection, job_number: int, codes: Collection[str], *, after: int, most: int
) -> Sequence[int]:
    """The numbers, above `after`, of done chunks in which an image has failed, in order."""
    failed = exists().where(
        results.c.job_number == chunks.c.job_number,
        results.c.position >= chunks.c.first_position,
        results.c.position < chunks.c.first_position + chunks.c.images,
        has_failed(codes),
    )
    return connection.scalars(
        select(chunks.c.chunk)
        .where(
            chunks.c.job_number == job_number,
            chunks.c.chunk > after,
            chunks.c.state == ChunkState.DONE,
            failed,
        )
        .order_by(chunks.c.chunk)
        .limit(most)
    ).all()


def retry(
    connection: Connection, job_number: int, numbers: Sequence[int], codes: Collection[str]
) -> Counter[str]:
    """Makes these chunks pending with their failed images, as if the images had never run.

    Deletes the images' rows. Skips chunks that are no longer done.

    Returns:
        The number of images that run again, by their former error code.
    """
    done = connection.execute(
        select(chunks.c.chunk, chunks.c.first_position, chunks.c.images)
        .where(
            chunks.c.job_number == job_number,
            chunks.c.chunk.in_(numbers),
            chunks.c.state == ChunkState.DONE,
        )
        .with_for_update(skip_locked=True)
    ).all()
    failed: Counter[str] = Counter()
    for chunk in done:
        failed += _retry_chunk(connection, job_number, chunk, codes)
    return failed


def _retry_chunk(
    connection: Connection, job_number: int, chunk: Row[int, int, int], codes: Collection[str]
) -> Counter[str]:
    failed = delete_failed(connection, job_number, chunk.first_position, chunk.images, codes)
    if failed:
        offsets = [position - chunk.first_position for position in failed]
        connection.execute(
            update(chunks)
            .where(chunks.c.job_number == job_number, chunks.c.chunk == chunk.chunk)
            .values(
                state=ChunkState.PENDING,
                attempt=0,
                deaths=0,
                alone_offset=None,
                crashes=None,
                later=None,
                fault=None,
                due_at=db_now(),
                remaining=remaining.encode(offsets),
                remaining_images=len(offsets),
            )
        )
    return Counter(failed.values())
