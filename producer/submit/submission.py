"""From a stream of URIs to a job in SQL, whole or not at all; Redis is not needed.

The job's row comes first, in state `submitting`, which no dispatcher touches; then its chunks
in short transactions, so that neither memory nor locks grow with the job; at last one UPDATE
sets it running. Whatever goes wrong before that, the job is deleted again. What becomes of its row
meanwhile is in `producer.submit.draft`, what a key means in `producer.submit.key`.

    from contract.database.engine import connect_database
    from contract.settings import load_settings
    from producer.submit.submission import submit

    engine = connect_database(load_settings())
    job = submit(engine, [("https://example.org/cat.jpg", "cat-1")], name="cats")
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, exists, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from contract.broker.connection import queue_of
from contract.chunks.insert import Part, insert_parts
from contract.database.clock import db_now
from contract.database.tables import chunks
from contract.database.waits import Database
from contract.errors import SourceError, UsageError
from contract.flow import LONGEST_CHUNK_IMAGES, chunk_images_at
from contract.settings import Settings
from producer.submit.background import begin
from producer.submit.digest import ImagesDigest
from producer.submit.draft import (
    Draft,
    Heartbeat,
    SubmitInProgressError,
    await_silence,
    check_ours,
    discard,
    insert_draft,
    set_running,
)
from producer.submit.key import Earlier, check_same, find_earlier
from producer.submit.runs import Run
from producer.submit.sources import Entry, check, shorten

# About what one transaction inserts: some tens of milliseconds, a few hundred kilobytes.
IMAGES_PER_TRANSACTION: Final = 4_096
# A transaction takes less, where the database answers.
BREAK_OFF_WITHIN_S: Final = 2.0
MAX_PRIORITY: Final = 1_000
MAX_EXPIRES_S: Final = 3650 * 86_400.0
MAX_TITLE_CHARS: Final = 200
# Two submits that take a key from each other settle it in two rounds.
KEY_ROUNDS: Final = 5


@dataclass(frozen=True)
class Submission:
    """What has become of a submit."""

    job: str
    """The job's id."""
    images: int
    repeated: bool
    """A job with this key was there already; nothing has been submitted."""


@dataclass(frozen=True)
class Group:
    """What one transaction inserts."""

    uris: list[str]
    refs: list[str | None]

    def cut(self, first: int, images: int) -> Group:
        return Group(self.uris[first : first + images], self.refs[first : first + images])


def submit(  # noqa: PLR0913  (the client's one call; all but two are by keyword)
    engine: Engine,
    images: Iterable[tuple[str, str | None]],
    *,
    name: str | None = None,
    key: str | None = None,
    priority: int = 0,
    expires_s: float | None = None,
    settings: Settings | None = None,
) -> str:
    """Submits images and returns the id of their job.

    Args:
        engine: of a database with our schema, as `contract.database.engine.connect_database` gives.
        images: for each its URI and an id of your own or None; read once, as a stream.
        name: for people; need not be unique.
        key: of your own, unique for each user: a submit that is repeated with it, the same images,
            model, weights and precision returns the id of the job that is there, and submits
            nothing.
        priority: each step doubles the job's part of the workers; -1000 to 1000.
        expires_s: counted from the end of the submit; what is not done by then is given up,
            with the error code `expired`. None: never.
        settings: model, weights, precision, images in a chunk, and folders of file URIs;
            by default those of the environment.

    Raises:
        SourceError: a URI is refused, or there is none.
        UsageError: name, key, priority or expires_s are not such.
        KeyConflictError: the key belongs to a job with other content.
        SubmitInProgressError: another submit with the same key has not finished yet.
        TakenAwayError: the job was cancelled or removed meanwhile, or its key was taken.
    """
    entries = (Entry(uri, ref, f"image {n}", 0) for n, (uri, ref) in enumerate(images, start=1))
    order = Order.of(
        settings or Settings(), name=name, key=key, priority=priority, expires_s=expires_s
    )
    return submit_entries(engine, entries, order).job


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is wanted of a job, but for its images."""

    name: str | None
    key: str | None
    priority: int
    expires_s: float | None
    owner: str
    model: str
    weights: str
    precision: str
    chunk_images: int | None
    """None: they grow along the job."""
    file_roots: Sequence[Path]
    fetch_ports: Sequence[int] = ()
    object_stores: Sequence[str] = ()

    def __post_init__(self) -> None:
        _check_title("name", self.name)
        _check_title("key", self.key)
        if abs(self.priority) > MAX_PRIORITY:
            raise UsageError(
                f"priority is {self.priority}; it is from -{MAX_PRIORITY} to {MAX_PRIORITY}."
            )
        if self.expires_s is not None and not 0 < self.expires_s <= MAX_EXPIRES_S:
            raise UsageError(
                f"expires is after {self.expires_s} seconds; it is after more than none, and "
                f"after {MAX_EXPIRES_S / 86_400:.0f} days at most."
            )

    @classmethod
    def of(
        cls,
        settings: Settings,
        *,
        name: str | None,
        key: str | None,
        priority: int,
        expires_s: float | None = None,
    ) -> Order:
        """An order of the user who runs this process."""
        return cls(
            name=name,
            key=key,
            priority=priority,
            expires_s=expires_s,
            owner=login_name(),
            model=settings.model,
            weights=settings.weights,
            precision=settings.precision,
            chunk_images=settings.chunk_images,
            file_roots=settings.file_roots,
            fetch_ports=settings.fetch_ports,
            object_stores=settings.object_stores,
        )

    @property
    def queue(self) -> str:
        return queue_of(self.model, self.weights, self.precision)


def login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"


def submit_entries(
    engine: Engine,
    images: Iterable[Entry | Run],
    order: Order,
    *,
    advance: Callable[[int], object] = lambda _images: None,
) -> Submission:
    """Checks and submits images; `advance` is told how many more are in the database.

    Raises:
        SourceError: a URI is refused, or there is none.
        KeyConflictError: the key belongs to a job with other content.
        SubmitInProgressError: another submit with the same key has not finished yet.
        TakenAwayError: the job was cancelled or removed meanwhile, or its key was taken.
    """
    # It takes hours to read some lists again: a database that goes away is waited for.
    database = Database(engine, waits_for_room=False)
    checked = check(images, order.file_roots, order.fetch_ports, order.object_stores)
    groups = _group(checked, _images_per_group(order))
    earlier = find_earlier(database, order.owner, order.key)
    if earlier is not None:
        return _repeat(earlier, order, groups)
    first = next(groups, None)  # before the job's row: most bad lists are found out here
    if first is None:
        raise SourceError("There is no URI in what was given, so nothing is submitted.")
    groups = chain([first], groups)
    draft = _begin(database, order)
    if isinstance(draft, Earlier):
        return _repeat(draft, order, groups)
    try:
        with Heartbeat(engine, draft):
            total = _submit_draft(database, draft, groups, order, advance)
    except BaseException:
        with suppress(SQLAlchemyError):  # what went wrong first is what to tell
            discard(engine, draft)
        raise
    return Submission(draft.id, total, repeated=False)


def _repeat(earlier: Earlier, order: Order, groups: Iterable[Group]) -> Submission:
    check_same(earlier, order, groups)
    return Submission(earlier.id, earlier.total, repeated=True)


def _submit_draft(
    database: Database,
    draft: Draft,
    groups: Iterable[Group],
    order: Order,
    advance: Callable[[int], object],
) -> int:
    """Inserts the images and sets the job running, whose time begins with it; their number."""
    digest = None if order.key is None else ImagesDigest()
    insert = partial(_insert_group, database, draft, digest)
    total = _insert_groups(groups, order.chunk_images, insert, advance)
    values: dict[str, Any] = {"total": total}
    if digest is not None:
        values["images_digest"] = digest.hexdigest()
    if order.expires_s is not None:
        values["expires_at"] = db_now(order.expires_s)
    set_running(database, draft, **values)
    return total


def _check_title(what: str, title: str | None) -> None:
    if title is not None and not (title.isprintable() and 0 < len(title) <= MAX_TITLE_CHARS):
        raise UsageError(
            f"{what} is {shorten(title)!r}; it is of 1 to {MAX_TITLE_CHARS} printable characters."
        )


def _images_per_group(order: Order) -> int:
    """Whole chunks."""
    chunk_images = order.chunk_images or LONGEST_CHUNK_IMAGES
    return max(1, IMAGES_PER_TRANSACTION // chunk_images) * chunk_images


def _group(images: Iterable[Entry | Run], size: int) -> Iterator[Group]:
    uris: list[str] = []
    refs: list[str | None] = []
    for image in images:
        if isinstance(image, Run):
            uris += image.uris
            refs += repeat(None, len(image.uris))
        else:
            uris.append(image.uri)
            refs.append(image.ref)
        while len(uris) >= size:
            yield Group(uris[:size], refs[:size])
            del uris[:size], refs[:size]
    if uris:
        yield Group(uris, refs)


def _begin(database: Database, order: Order) -> Draft | Earlier:
    """The job's row; or the job with the same key that another submit has finished meanwhile."""
    for _ in range(KEY_ROUNDS):
        earlier = find_earlier(database, order.owner, order.key)
        if earlier is not None:
            return earlier
        if order.key is not None:
            await_silence(database, order.owner, order.key)
        try:
            return insert_draft(database, _job_row(order))
        except IntegrityError:  # another submit with this key, at the same time
            continue
    raise SubmitInProgressError(
        f"Other submits with the key {order.key!r} go on at the same time. Try again."
    )


def _job_row(order: Order) -> dict[str, Any]:
    return {
        "id": secrets.token_hex(8),
        "owner": order.owner,
        "key": order.key,
        "name": order.name,
        "priority": order.priority,
        "model": order.model,
        "weights": order.weights,
        "precision": order.precision,
        "queue": order.queue,
        "total": 0,
        "classified": 0,
        "failed": 0,
        "errors": {},
        "images_per_s": 0.0,
    }


def _insert_groups(
    groups: Iterable[Group],
    chunk_images: int | None,
    insert: Callable[[Group, Sequence[Part]], None],
    advance: Callable[[int], object],
) -> int:
    """How many images there were. While a group is inserted, the next one is made ready."""
    images = inserted = first_chunk = 0
    under_way: Future[None] | None = None
    try:
        for group in groups:
            parts = _parts(group, images, first_chunk, chunk_images)
            first_chunk += len(parts)
            if under_way is not None:
                under_way.result()
                advance(images - inserted)
                inserted = images
            under_way = begin(partial(insert, group, parts))
            images += len(group.uris)
    finally:  # whoever breaks off finds nothing half done, unless the database is away
        wait([under_way] if under_way else [], BREAK_OFF_WITHIN_S)
    if under_way is not None:
        under_way.result()
        advance(images - inserted)
    return images


def _insert_group(
    database: Database,
    draft: Draft,
    digest: ImagesDigest | None,
    group: Group,
    parts: Sequence[Part],
) -> None:
    if digest is not None:  # here, beside the thread that reads: hashing needs no lock of Python's
        digest.add(group.uris, group.refs)
    database.transact(partial(_insert_parts, draft, parts, count()))


def _insert_parts(
    draft: Draft, parts: Sequence[Part], tries: Iterator[int], connection: Connection
) -> None:
    check_ours(connection, draft)
    if next(tries) and _is_inserted(connection, draft, parts[0].chunk):
        return
    insert_parts(connection, draft.number, draft.created_at, parts)


def _parts(
    group: Group, first_position: int, first_chunk: int, chunk_images: int | None
) -> list[Part]:
    """Some chunks; every group but the last one is of whole chunks."""
    parts, cut = list[Part](), 0
    while cut < len(group.uris):
        images = chunk_images or chunk_images_at(first_position + cut)
        part = _part(first_chunk + len(parts), group.cut(cut, images), first_position + cut)
        parts.append(part)
        cut += images
    return parts


def _is_inserted(connection: Connection, draft: Draft, chunk: int) -> bool:
    """By an earlier try, whose commit was not reported."""
    of_job = (chunks.c.job_number == draft.number) & (chunks.c.chunk == chunk)
    return connection.scalar(select(exists().where(of_job))) is True


def _part(chunk: int, group: Group, first_position: int) -> Part:
    has_refs = group.refs.count(None) < len(group.refs)
    return Part(
        chunk=chunk,
        first_position=first_position,
        images=len(group.uris),
        uris=json.dumps(group.uris),
        refs=json.dumps(group.refs) if has_refs else None,
    )
