"""The beginning of a run: a worker claims a chunk in SQL, or drops its message.

The task hands in a message and gets the images to run. A message is only a notice: it may come
twice, late, or after the job was cancelled, and then it claims nothing. What is fetched is what SQL
says: whoever can write to Redis does not decide it.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count, repeat
from typing import Final, NamedTuple

from sqlalchemy import Connection, select, update

from contract import remaining
from contract.broker.message import ChunkMessage, MalformedMessage
from contract.chunks import later, run
from contract.chunks.fence import Fence
from contract.chunks.later import Group
from contract.database.tables import jobs
from contract.database.waits import Database
from worker.process.identity import Identity

log = logging.getLogger(__name__)

# A worker with other weights refuses the job: leave it time to reach one that fits.
FOREIGN_WEIGHTS_WAIT_S: Final = 30.0


class Image(NamedTuple):
    """What is fetched, and the submitter's own id of it."""

    uri: str
    ref: str | None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A chunk that this worker runs, and its images by position."""

    message: ChunkMessage
    attempt: int
    """Which run of its images this is, from 1."""
    first_position: int
    images: dict[int, Image]
    others: frozenset[int] = frozenset()
    """Positions that wait for their turn, where one image of the chunk runs alone."""
    groups: tuple[Group, ...] = ()
    """Images of the chunk that wait for a time of their own."""
    queue_wait_s: float | None = None
    """From its publication to this claim, by the database's clock; None: not known."""
    claimed_at: float = 0.0
    """Seconds since 1970, by the database's clock."""
    began_at: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        return str(self.message)

    @property
    def fence(self) -> Fence:
        return self.message.fence

    @property
    def now(self) -> float:
        """Seconds since 1970, by the database's clock as far as this process can tell."""
        return self.claimed_at + time.monotonic() - self.began_at

    def offset(self, position: int) -> int:
        return position - self.first_position


def claim(database: Database, identity: Identity, message: ChunkMessage) -> Claim | None:
    """Takes the message's chunk for this worker; None if it is not to be had.

    Raises:
        MalformedMessage: the message names other images than SQL does; nothing is claimed.
    """
    tries = count()

    def work(connection: Connection) -> Claim | None:
        row = run.claim(
            connection,
            message.fence,
            worker=identity.worker,
            queue=identity.queue,
            again=next(tries) > 0,
        )
        if row is None or not _serves(connection, identity, message, row.weights_sha256):
            return None
        return _claimed(message, row)

    claimed = database.transact(work)
    if claimed is None:
        log.debug("%s: not to be claimed; its message is dropped", message)
    return claimed


def begin_alone(database: Database, identity: Identity, claimed: Claim) -> None:
    """Notes that the claim's one image runs, and that from now on nothing else does."""
    (position,) = claimed.images
    offset = claimed.offset(position)
    database.transact(
        lambda connection: run.begin_alone(connection, claimed.fence, identity.worker, offset)
    )


def _serves(
    connection: Connection, identity: Identity, message: ChunkMessage, pinned: str | None
) -> bool:
    """Whether the job is classified with this worker's weights; the first claim decides."""
    pinned = pinned or _pin(connection, identity, message)
    if pinned == identity.weights_sha256:
        return True
    log.error(
        "Job %s began with weights of SHA-256 %s; this worker's are %s under the same name. "
        "Its chunk goes back: start this worker with the same file, or submit the job again.",
        message.job,
        pinned,
        identity.weights_sha256,
    )
    run.refuse(connection, message.fence, identity.worker, due_in_s=FOREIGN_WEIGHTS_WAIT_S)
    return False


def _pin(connection: Connection, identity: Identity, message: ChunkMessage) -> str | None:
    """The job's weights from now on: this worker's, unless another one pins its own first."""
    of_job = jobs.c.number == message.job_number
    connection.execute(
        update(jobs)
        .where(of_job, jobs.c.weights_sha256.is_(None))
        .values(weights_sha256=identity.weights_sha256)
    )
    return connection.scalar(select(jobs.c.weights_sha256).where(of_job))


def _claimed(message: ChunkMessage, row: run.Claimed) -> Claim:
    first: int = row.first_position
    current = later.current(remaining.decode(row.remaining), row.later)
    offsets = [position - first for position in message.positions]
    others = set(current).difference(offsets)
    if not set(current).issuperset(offsets) or (others and not message.alone):
        raise MalformedMessage(f"{message} names other images than SQL does")
    uris = [row.uris[offset] for offset in offsets]
    if uris != list(message.uris):
        log.error("%s has other URIs than SQL does; those of SQL are fetched", message)
    refs = [row.refs[offset] for offset in offsets] if row.refs else repeat(None)
    return Claim(
        message=message,
        attempt=row.attempt,
        first_position=first,
        images=dict(zip(message.positions, map(Image, uris, refs), strict=True)),
        others=frozenset(first + offset for offset in others),
        groups=tuple(later.decode(row.later)),
        queue_wait_s=_seconds_between(row.published_at, row.claimed_at),
        claimed_at=row.claimed_at.timestamp(),
    )


def _seconds_between(begin: datetime | None, end: datetime) -> float | None:
    """Never below 0: a database that was moved to another machine has another clock."""
    return None if begin is None else max(0.0, (end - begin).total_seconds())
