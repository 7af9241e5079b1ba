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
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, exists, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from contract.broker.connection import queue_of
from contract.chunks.insert import INVALID, Part, insert_parts
from contract.database.clock import db_now
from contract.database.tables import chunks
from contract.database.waits import Database
from contract.errors import SourceError
from contract.flow import LONGEST_CHUNK_IMAGES
from contract.settings import Settings
from producer.notify.outbox import check_url, make_secret
from producer.submit.background import begin
from producer.submit.check import Findings, OnInvalid, check
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
from producer.submit.groups import GROUP_IMAGES, Group, gather, parts_of
from producer.submit.key import Earlier, check_same, find_earlier
from producer.submit.options import (
    check_expires,
    check_priority,
    check_share,
    check_tags,
    check_title,
)
from producer.submit.sample import check_sample, sampled
from producer.submit.sources.entry import Entry, Image
from producer.submit.unique import without_duplicates

# A transaction takes less, where the database answers.
BREAK_OFF_WITHIN_S: Final = 2.0
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
    notify_secret: str | None = None
    """What notifications of this job are signed with; told once, here."""


@dataclass(frozen=True, kw_only=True)
class Intake:
    """What is taken of the images that sources give, and what was found of them so far."""

    on_invalid: OnInvalid = OnInvalid.stop
    unique: bool = False
    """The first of the images with the same URI alone."""
    sample: int | None = None
    """So many at random."""
    findings: Findings = field(default_factory=Findings)

    def __post_init__(self) -> None:
        check_sample(self.sample)


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
    tags: Mapping[str, str] = field(default_factory=dict)
    stop_at_failures: float | None = None
    """The share of failed images, above 0 and up to 1, at which the rest is cancelled."""
    notify: str | None = None
    """A URL that is told when the job has ended; see `producer.notify`."""

    def __post_init__(self) -> None:
        check_title("name", self.name)
        check_title("key", self.key)
        check_priority(self.priority)
        check_expires(self.expires_s)
        check_tags(self.tags)
        check_share(self.stop_at_failures)
        check_url(self.notify)

    @classmethod
    def of(  # noqa: PLR0913  (all but one are by keyword)
        cls,
        settings: Settings,
        *,
        name: str | None,
        key: str | None,
        priority: int,
        expires_s: float | None = None,
        owner: str | None = None,
        tags: Mapping[str, str] | None = None,
        stop_at_failures: float | None = None,
        notify: str | None = None,
    ) -> Order:
        """An order of this owner; by default of the user who runs this process."""
        return cls(
            name=name,
            key=key,
            priority=priority,
            expires_s=expires_s,
            owner=login_name() if owner is None else owner,
            model=settings.model,
            weights=settings.weights,
            precision=settings.precision,
            chunk_images=settings.chunk_images,
            file_roots=settings.file_roots,
            fetch_ports=settings.fetch_ports,
            object_stores=settings.object_stores,
            tags=tags or {},
            stop_at_failures=stop_at_failures,
            notify=notify,
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
    images: Iterable[Image],
    order: Order,
    *,
    intake: Intake | None = None,
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
    groups = groups_of(images, order, intake or Intake())
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
    return Submission(draft.id, total, repeated=False, notify_secret=draft.notify_secret)


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
    digest: ImagesDigest | None = ImagesDigest()
    insert = partial(_insert_group, database, draft, digest)
    failed = 0

    def counted() -> Iterator[Group]:
        nonlocal failed
        for group in groups:
            failed += len(group.failed)
            yield group

    total = _insert_groups(counted(), order.chunk_images, insert, advance)
    values: dict[str, Any] = {"total": total}
    if failed:
        values |= {"failed": failed, "errors": {INVALID: failed}}
    if digest is not None:
        values["images_digest"] = digest.hexdigest()
    if order.expires_s is not None:
        values["expires_at"] = db_now(order.expires_s)
    set_running(database, draft, **values)
    return total


def _images_per_group(order: Order) -> int:
    """Whole chunks."""
    chunk_images = order.chunk_images or LONGEST_CHUNK_IMAGES
    return max(1, GROUP_IMAGES // chunk_images) * chunk_images


def groups_of(images: Iterable[Image], order: Order, intake: Intake) -> Iterator[Group]:
    """What is taken of the images, as the transactions take it.

    Raises:
        SourceError: a source cannot be read; a line or URI is refused, and `stop` was wanted.
    """
    checked = check(
        images,
        order.file_roots,
        order.fetch_ports,
        order.object_stores,
        on_invalid=intake.on_invalid,
        findings=intake.findings,
    )
    size = _images_per_group(order)
    groups = gather(checked, size)
    if not intake.unique and intake.sample is None:
        return groups
    if intake.unique:
        groups = without_duplicates(groups, intake.findings)
    if intake.sample is not None:
        groups = sampled(groups, intake.sample)
    return gather(groups, size)


def _begin(database: Database, order: Order) -> Draft | Earlier:
    """The job's row; or the job with the same key that another submit has finished meanwhile."""
    for _ in range(KEY_ROUNDS):
        earlier = find_earlier(database, order.owner, order.key)
        if earlier is not None:
            return earlier
        if order.key is not None:
            await_silence(database, order.owner, order.key)
        try:
            return insert_draft(database, _job_row(order), order.tags)
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
        "stop_at_failures": order.stop_at_failures,
        "notify_url": order.notify,
        "notify_secret": None if order.notify is None else make_secret(),
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
            parts = parts_of(group, images, first_chunk, chunk_images)
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


def _is_inserted(connection: Connection, draft: Draft, chunk: int) -> bool:
    """By an earlier try, whose commit was not reported."""
    of_job = (chunks.c.job_number == draft.number) & (chunks.c.chunk == chunk)
    return connection.scalar(select(exists().where(of_job))) is True
