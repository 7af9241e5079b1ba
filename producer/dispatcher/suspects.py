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
    """The offset whose turn it is, of those that are left.

    After its worker's death an image waits until all others have had their turn.
    """
    last = chunk.alone_offset
    if last is None:
        return offsets[0]
    return next((offset for offset in offsets if offset > last), offsets[0])


def count_crashes(connection: Connection) -> None:
    """For each image that ran alone when its worker crashed; its chunk stays as it is for the
    reaper to take back, unless nothing is left of it.
    """
    for chunk in crashed_alone(connection):
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
    note_crashes(connection, chunk, crashes)
    if crashes[offset] >= CRASHES_TO_CONDEMN:
        failure = Failure("crashed", f"the worker ended with {chunk.crashed_by} each time")
        condemn(connection, chunk, failure, attempts=CRASHES_TO_CONDEMN)
