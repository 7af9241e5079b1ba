"""Images that end their worker: found out by running a chunk's images one by one.

Two deaths make a chunk suspect, whatever ended the workers: from then on
`producer.dispatcher.publish` sends its images alone, in turns. The reaper counts here for an image
only what nobody outside can have done to it: it ran with nothing else in flight, and its worker
ended with a signal of its own making, as its parent process has seen (`workers.crashed_by`). The
third time the image fails as `crashed`. Workers that are killed, however often and whenever,
condemn nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, insert, select, update

from contract import remaining
from contract.database.clock import db_now
from contract.database.tables import chunk_uris, chunks, jobs, results, tallies, workers
from contract.failure import Failure

log = logging.getLogger(__name__)

DEATHS_TO_SUSPECT: Final = 2
CRASHES_TO_CONDEMN: Final = 3


def is_suspect(chunk: Row[Any]) -> bool:
    deaths: int = chunk.deaths
    return deaths >= DEATHS_TO_SUSPECT


def next_alone(chunk: Row[Any], offsets: Sequence[int]) -> int:
    """The offset whose turn it is, of those that are left.

    After its worker's death an image waits until all others have had their turn. But one that
    has failed for a passing reason has its further attempts first, since meanwhile the chunk's
    one count of attempts is this image's.
    """
    last = chunk.alone_offset
    if last is None:
        return offsets[0]
    if chunk.attempt and last in offsets:
        return int(last)
    return next((offset for offset in offsets if offset > last), offsets[0])


def count_crashes(connection: Connection) -> None:
    """For each image that ran alone when its worker crashed; its chunk stays as it is for the
    reaper to take back, unless nothing is left of it.
    """
    crashed = connection.execute(
        select(chunks, chunk_uris.c.uris, chunk_uris.c.refs, jobs.c.id, workers.c.crashed_by)
        .join(workers, workers.c.name == chunks.c.worker)
        .join(jobs, jobs.c.number == chunks.c.job_number)
        .join(
            chunk_uris,
            (chunk_uris.c.job_number == chunks.c.job_number)
            & (chunk_uris.c.chunk == chunks.c.chunk),
        )
        .where(
            chunks.c.state == "running",
            chunks.c.alone_generation == chunks.c.generation,
            workers.c.crashed_by.is_not(None),
        )
        .with_for_update(of=chunks, skip_locked=True)
    ).all()
    for chunk in crashed:
        _count_crash(connection, chunk)


def _count_crash(connection: Connection, chunk: Row[Any]) -> None:
    offset = str(chunk.alone_offset)
    crashes: dict[str, int] = dict(chunk.crashes or {})
    crashes[offset] = crashes.get(offset, 0) + 1
    log.warning(
        "Image %d of job %s has ended its worker by %s, alone in it: %d of %d times",
        chunk.first_position + chunk.alone_offset,
        chunk.id,
        chunk.crashed_by,
        crashes[offset],
        CRASHES_TO_CONDEMN,
    )
    _change(connection, chunk, {"crashes": crashes})
    if crashes[offset] >= CRASHES_TO_CONDEMN:
        _condemn(connection, chunk)


def _condemn(connection: Connection, chunk: Row[Any]) -> None:
    """The image's row and tally; its chunk is left with the others."""
    offset = chunk.alone_offset
    failure = Failure("crashed", f"the worker ended with {chunk.crashed_by} each time")
    connection.execute(
        insert(results).values(
            job_number=chunk.job_number,
            position=chunk.first_position + offset,
            uri=chunk.uris[offset],
            ref=chunk.refs[offset] if chunk.refs else None,
            attempts=CRASHES_TO_CONDEMN,
            settled_at=db_now(),
            worker=chunk.worker,
            error_code=failure.code,
            error_detail=failure.detail,
        )
    )
    tally = {"classified": 0, "failed": 1, "errors": {failure.code: 1}}
    connection.execute(insert(tallies).values(job_number=chunk.job_number, **tally))
    left = [other for other in remaining.decode(chunk.remaining) if other != offset]
    values = {"remaining": remaining.encode(left), "remaining_images": len(left)}
    _change(connection, chunk, values | ({} if left else {"state": "done", "worker": None}))


def _change(connection: Connection, chunk: Row[Any], values: dict[str, Any]) -> None:
    connection.execute(
        update(chunks)
        .where(chunks.c.job_number == chunk.job_number, chunks.c.chunk == chunk.chunk)
        .values(values)
    )
