"""Finds images that crash their worker, by running a chunk's images one by one.

After two deaths, whatever their cause, a chunk is suspect: `producer.dispatcher.publish` then sends
its images alone, in turns. The reaper counts a crash for an image only if nothing else can be the
cause: it was the only image in flight, and the worker ended with a signal of its own making, as its
parent process saw (`workers.crashed_by`). After the third crash the image fails as `crashed`.
Killing workers, however often, condemns no image.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row

from contract.chunks.reap import condemn, crashed_alone, note_crashes
from contract.failure import Failure

log = logging.getLogger(__name__)

DEATHS_TO_SUSPECT: Final = 2
CRASHES_TO_CONDEMN: Final = 3


def is_suspect(chunk: Row[Any]) -> bool:
    deaths: int = chunk.deaths
    return deaths >= DEATHS_TO_SUSPECT


def next_alone(chunk: Row[Any], offsets: Sequence[int]) -> int:
    """The offset to run next, among the remaining ones.

    After its worker's death an image waits until all others have had their turn.
    """
    last = chunk.alone_offset
    if last is None:
        return offsets[0]
    return next((offset for offset in offsets if offset > last), offsets[0])


def count_crashes(connection: Connection) -> None:
    """Counts a crash for each image that ran alone when its worker crashed. The reaper takes the
    chunk back afterwards, unless no image is left in it.
    """
    for chunk in crashed_alone(connection):
        _count_crash(connection, chunk)


def _count_crash(connection: Connection, chunk: Row[Any]) -> None:
    offset = str(chunk.alone_offset)
    crashes: dict[str, int] = dict(chunk.crashes or {})
    crashes[offset] = crashes.get(offset, 0) + 1
    log.warning(
        "Image %d of job %s, running alone, ended its worker by %s: %d of %d times",
        chunk.first_position + chunk.alone_offset,
        chunk.id,
        chunk.crashed_by,
        crashes[offset],
        CRASHES_TO_CONDEMN,
        extra={"job": chunk.id, "chunk": chunk.chunk, "generation": chunk.generation},
    )
    note_crashes(connection, chunk, crashes)
    if crashes[offset] >= CRASHES_TO_CONDEMN:
        failure = Failure("crashed", f"the worker ended with {chunk.crashed_by} each time")
        condemn(connection, chunk, failure, attempts=CRASHES_TO_CONDEMN)
