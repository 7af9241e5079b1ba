"""Handles a submit whose key already belongs to a complete job: the same images give the same job.

`submit` calls this before it inserts anything. Other images, or another model, weights or
precision, are refused. Priority, name and expiry are not compared, because they change no answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection, select

from contract.database.tables import jobs
from contract.database.waits import Database
from contract.errors import UsageError
from producer.submit.digest import ImagesDigest


class KeyConflictError(UsageError):
    """The key belongs to a job with other content. An HTTP API answers 422."""


class Content(Protocol):
    """The part of an order that decides the answers, besides the images."""

    @property
    def model(self) -> str: ...
    @property
    def weights(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def queue(self) -> str: ...


class Images(Protocol):
    @property
    def uris(self) -> Sequence[str]: ...
    @property
    def refs(self) -> Sequence[str | None]: ...


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """The job that already has the key."""

    id: str
    key: str
    total: int
    model: str
    weights: str
    precision: str
    queue: str
    images_digest: str | None
    """None: the job is from a version without digests, so nothing can be compared."""


def find_earlier(database: Database, owner: str, key: str | None) -> Earlier | None:
    """The complete job that was submitted with this key. None: there is none."""
    if key is None:
        return None
    statement = select(
        jobs.c.id,
        jobs.c.key,
        jobs.c.total,
        jobs.c.model,
        jobs.c.weights,
        jobs.c.precision,
        jobs.c.queue,
        jobs.c.images_digest,
    ).where(jobs.c.owner == owner, jobs.c.key == key, jobs.c.state != "submitting")

    def read(connection: Connection) -> Earlier | None:
        row = connection.execute(statement).mappings().one_or_none()
        return None if row is None else Earlier(**row)

    return database.read(read)


def check_same(earlier: Earlier, wanted: Content, images: Iterable[Images]) -> None:
    """Compares the order and its images with the job. Stops reading at the first difference in
    number.

    Raises:
        KeyConflictError: the order differs from the job.
        SourceError: a URI is refused.
    """
    if earlier.images_digest is None:
        return
    # A queue's name contains no folders, which differ from machine to machine.
    if earlier.queue != wanted.queue:
        raise _conflict(earlier, _other_options(earlier, wanted))
    digest = ImagesDigest()
    for group in images:
        digest.add(group.uris, group.refs)
        if digest.images > earlier.total:
            raise _conflict(earlier, f"it has {_count(earlier.total)}, but this submit has more")
    if digest.images != earlier.total:
        raise _conflict(
            earlier, f"it has {_count(earlier.total)}, but this submit has {digest.images:,}"
        )
    if digest.hexdigest() != earlier.images_digest:
        raise _conflict(
            earlier,
            f"it has the same number of images, {earlier.total:,}, but other URIs or ids, or "
            "another order",
        )


def _other_options(earlier: Earlier, wanted: Content) -> str:
    options = ("model", "weights", "precision")
    pairs = ((name, getattr(earlier, name), getattr(wanted, name)) for name in options)
    return ", ".join(
        f"its {name} is {a!r}, but this submit asks for {b!r}" for name, a, b in pairs if a != b
    )


def _count(images: int) -> str:
    return "1 image" if images == 1 else f"{images:,} images"


def _conflict(earlier: Earlier, difference: str) -> KeyConflictError:
    return KeyConflictError(
        f"The key {earlier.key!r} belongs to job {earlier.id} with other content: "
        f"{difference}. Nothing was submitted. Use another key for other content."
    )
