"""The start of a run: a worker claims a chunk in SQL, or drops its message.

The task passes a message and gets the images to run. A message is only a notice: it may arrive
twice, late, or after the job was cancelled, and then it claims nothing. The URIs come from SQL, so
a program that can write to Redis cannot choose what is fetched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
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

# After a worker with other weights has refused a chunk, it waits this long for a worker that fits.
FOREIGN_WEIGHTS_WAIT_S: Final = 30.0


class Image(NamedTuple):
    """The URI to fetch, and the submitter's own id for it."""

    uri: str
    ref: str | None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A chunk that this worker runs, and its images by position."""

    message: ChunkMessage
    attempt: int
    """The number of this run of its images, from 1."""
    first_position: int
    images: dict[int, Image]
    total: int = 0
    """The number of images in the whole job."""
    others: frozenset[int] = frozenset()
    """If one image of the chunk runs alone: positions of the images that wait for their turn."""
    groups: tuple[Group, ...] = ()
    """Images of the chunk that are due later, each group at its own time."""
    queue_wait_s: float | None = None
    """From the chunk's publication to this claim, by the database's clock; None if unknown."""
    claimed_at: float = 0.0
    """Seconds since 1970, by the database's clock."""
    began_at: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        return str(self.message)

    @property
    def fence(self) -> Fence:
        return self.message.fence

    @property
    def logged(self) -> dict[str, str | int]:
        """Fields for log lines about this run; see `contract.log`."""
        return self.message.logged | {"attempt": self.attempt}

    @property
    def now(self) -> float:
        """Seconds since 1970, counted on from the database's clock at the claim."""
        return self.claimed_at + time.monotonic() - self.began_at

    def offset(self, position: int) -> int:
        return position - self.first_position


def claim(database: Database, identity: Identity, message: ChunkMessage) -> Claim | None:
    """Claims the message's chunk for this worker. Returns None if that is not possible.

    Raises:
        MalformedMessage: the message names other images than SQL does; nothing is claimed.
    """
    tries = count()

    def take(connection: Connection) -> run.Claimed | None:
        return run.claim(
            connection,
            message.fence,
            worker=identity.worker,
            queue=identity.queue,
            again=next(tries) > 0,
        )

    def take_named(connection: Connection) -> tuple[run.Claimed, Claim] | None:
        """If the message is malformed, the transaction and with it the claim are rolled back."""
        row = take(connection)
        return None if row is None else (row, _claimed(message, row))

    if message.names_images:
        taken = database.transact(take_named)
    else:
        row = database.execute(take)
        taken = None if row is None else (row, _claimed(message, row))
    if taken is not None and _serves(database, identity, message, taken[0].weights_sha256):
        return taken[1]
    log.debug("%s: cannot be claimed; its message is dropped", message)
    return None


def begin_alone(database: Database, identity: Identity, claimed: Claim) -> None:
    """Notes in SQL that the claim's one image now runs alone."""
    (position,) = claimed.images
    offset = claimed.offset(position)
    database.transact(
        lambda connection: run.begin_alone(connection, claimed.fence, identity.worker, offset)
    )


def _serves(
    database: Database, identity: Identity, message: ChunkMessage, pinned: str | None
) -> bool:
    """Whether the job uses this worker's weights; its first claim decides. If not, hands the chunk
    back.
    """
    if pinned is None:
        pinned = database.transact(lambda connection: _pin(connection, identity, message))
    if pinned == identity.weights_sha256:
        return True
    log.error(
        "Job %s started with weights of SHA-256 %s. This worker's weights have the same name, but "
        "their SHA-256 is %s. The chunk is handed back. Start this worker with the same file, or "
        "submit the job again.",
        message.job,
        pinned,
        identity.weights_sha256,
    )
    database.transact(
        lambda connection: run.refuse(
            connection, message.fence, identity.worker, due_in_s=FOREIGN_WEIGHTS_WAIT_S
        )
    )
    return False


def _pin(connection: Connection, identity: Identity, message: ChunkMessage) -> str | None:
    """Pins the job to this worker's weights, if it is not pinned yet. Returns the pinned hash."""
    of_job = jobs.c.number == message.job_number
    connection.execute(
        update(jobs)
        .where(of_job, jobs.c.weights_sha256.is_(None))
        .values(weights_sha256=identity.weights_sha256)
    )
    return connection.scalar(select(jobs.c.weights_sha256).where(of_job))


def _claimed(message: ChunkMessage, row: run.Claimed) -> Claim:
    first: int = row.first_position
    offsets = later.current(remaining.decode(row.remaining), row.later)
    others: set[int] = set()
    if message.names_images:
        offsets, others = _named(message, first, offsets)
    uris: Iterable[str] = row.uris
    refs: Iterable[str | None] = row.refs or repeat(None)
    if len(offsets) < len(row.uris):
        uris = [row.uris[offset] for offset in offsets]
        refs = [row.refs[offset] for offset in offsets] if row.refs else refs
    if message.uris and list(message.uris) != list(uris):
        log.error("%s has other URIs than SQL; the URIs in SQL are fetched", message)
    return Claim(
        message=message,
        attempt=row.attempt,
        first_position=first,
        images=dict(zip(map(first.__add__, offsets), map(Image, uris, refs), strict=True)),
        total=row.total,
        others=frozenset(first + offset for offset in others),
        groups=tuple(later.decode(row.later)),
        queue_wait_s=_seconds_between(row.published_at, row.claimed_at),
        claimed_at=row.claimed_at.timestamp(),
    )


def _named(message: ChunkMessage, first: int, current: Sequence[int]) -> tuple[list[int], set[int]]:
    """Returns the offsets that a message names, and those of the other images that are due.

    Raises:
        MalformedMessage: the message names other images than SQL does.
    """
    offsets = [position - first for position in message.positions]
    others = set(current).difference(offsets)
    if not set(current).issuperset(offsets) or (others and not message.alone):
        raise MalformedMessage(f"{message} names other images than SQL does")
    return offsets, others


def _seconds_between(begin: datetime | None, end: datetime) -> float | None:
    """At least 0: the clock may go back if the database moves to another machine."""
    return None if begin is None else max(0.0, (end - begin).total_seconds())
