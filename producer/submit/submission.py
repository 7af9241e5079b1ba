"""From a stream of URIs to a job in SQL, complete or not at all. It does not need Redis.

The job's row comes first, in state `submitting`, which dispatchers ignore. Then its chunks are
inserted in short transactions, so that neither memory nor locks grow with the job. Finally one
UPDATE sets it running. If anything fails before that, the job is deleted. `producer.submit.draft`
describes the row's life until then, and `producer.submit.key` what a key means.

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
from collections import Counter
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
from contract.chunks.insert import Part, insert_parts
from contract.database.clock import db_now
from contract.database.tables import chunks
from contract.database.waits import Database
from contract.errors import SourceError
from contract.models import check_names
from contract.settings import Settings
from producer.notify.outbox import check_url, make_secret
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
from producer.submit.groups import Group, parts_of
from producer.submit.intake import Intake, groups_of
from producer.submit.key import Earlier, check_same, find_earlier
from producer.submit.options import (
    check_expires,
    check_model,
    check_priority,
    check_share,
    check_tags,
    check_title,
)
from producer.submit.sources.entry import Entry, Image

# A transaction takes less time than this if the database answers.
BREAK_OFF_WITHIN_S: Final = 2.0
# Two submits that compete for a key need two rounds.
KEY_ROUNDS: Final = 5


@dataclass(frozen=True)
class Submission:
    """The result of a submit."""

    job: str
    """The job's id."""
    images: int
    repeated: bool
    """There was already a job with this key, so nothing was submitted."""
    notify_secret: str | None = None
    """The secret that signs this job's notifications. It is shown only here."""


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
        engine: a database with our schema, from `contract.database.engine.connect_database`.
        images: for each image its URI and your own id or None; read once, as a stream.
        name: for people; need not be unique.
        key: idempotency key, unique per user. A repeated submit with the same key, images, model,
            weights and precision submits nothing and returns the id of the existing job.
        priority: each step doubles the job's share of the workers; -1000 to 1000.
        expires_s: time limit, counted from the end of the submit. Images not done by then fail
            with the error code `expired`. None: no limit.
        settings: model, weights, precision, images per chunk, and folders of file URIs;
            by default those of the environment.

    Raises:
        SourceError: a URI is refused, or there is none.
        UsageError: name, key, priority or expires_s is invalid.
        KeyConflictError: the key belongs to a job with other content.
        SubmitInProgressError: another submit with the same key is still running.
        TakenAwayError: the job was cancelled or removed meanwhile, or its key was taken.
    """
    entries = (Entry(uri, ref, f"image {n}", 0) for n, (uri, ref) in enumerate(images, start=1))
    order = Order.of(
        settings or Settings(), name=name, key=key, priority=priority, expires_s=expires_s
    )
    return submit_entries(engine, entries, order).job


@dataclass(frozen=True, kw_only=True)
class Order:
    """Everything about a job except its images."""

    name: str | None
    key: str | None
    priority: int
    expires_s: float | None
    owner: str
    model: str
    weights: str
    precision: str
    chunk_images: int | None
    """None: chunk lengths grow along the job."""
    file_roots: Sequence[Path]
    fetch_ports: Sequence[int] = ()
    object_stores: Sequence[str] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    stop_at_failures: float | None = None
    """Share of failed images, above 0 and up to 1, at which the rest of the job is cancelled."""
    notify: str | None = None
    """URL to notify when the job has ended; see `producer.notify`."""

    def __post_init__(self) -> None:
        check_model("model", self.model)
        check_model("weights", self.weights)
        check_names(self.model, self.weights)
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
        """An order of this owner. Default: the user who runs this process."""
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
    """Checks and submits images. Calls `advance` with the number of newly stored images.

    Raises:
        SourceError: a URI is refused, or there is none.
        KeyConflictError: the key belongs to a job with other content.
        SubmitInProgressError: another submit with the same key is still running.
        TakenAwayError: the job was cancelled or removed meanwhile, or its key was taken.
    """
    # Reading some lists again takes hours, so this waits while the database is unavailable.
    database = Database(engine, waits_for_room=False)
    intake = intake or Intake()
    groups = groups_of(images, order, intake)
    earlier = find_earlier(database, order.owner, order.key)
    if earlier is not None:
        return _repeat(earlier, order, groups)
    first = next(groups, None)  # before the job's row, because most bad lists show up here
    if first is None:
        raise SourceError("The sources contain no URI, so nothing is submitted.")
    groups = chain([first], groups)
    draft = _begin(database, order, intake)
    if isinstance(draft, Earlier):
        return _repeat(draft, order, groups)
    try:
        with Heartbeat(engine, draft):
            total = _submit_draft(database, draft, groups, order, advance)
    except BaseException:
        with suppress(SQLAlchemyError):  # the first error is the one to report
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
    """Inserts the images, then sets the job running, which starts its time. Returns their
    number.
    """
    digest: ImagesDigest | None = ImagesDigest()
    insert = partial(_insert_group, database, draft, digest)
    errors = Counter[str]()

    def counted() -> Iterator[Group]:
        for group in groups:
            errors.update(failure.code for failure in group.failed.values())
            yield group

    total = _insert_groups(counted(), order.chunk_images, insert, advance)
    values: dict[str, Any] = {"total": total}
    if errors:
        values |= {"failed": errors.total(), "errors": dict(errors)}
    if digest is not None:
        values["images_digest"] = digest.hexdigest()
    if order.expires_s is not None:
        values["expires_at"] = db_now(order.expires_s)
    set_running(database, draft, **values)
    return total


def _begin(database: Database, order: Order, intake: Intake) -> Draft | Earlier:
    """The job's row. Or the job that another submit has finished with the same key meanwhile."""
    for _ in range(KEY_ROUNDS):
        earlier = find_earlier(database, order.owner, order.key)
        if earlier is not None:
            return earlier
        if order.key is not None:
            await_silence(database, order.owner, order.key)
        try:
            return insert_draft(database, _job_row(order, intake), order.tags)
        except IntegrityError:  # another submit with this key, at the same time
            continue
    raise SubmitInProgressError(
        f"Other submits with the key {order.key!r} are running at the same time. Try again."
    )


def _job_row(order: Order, intake: Intake) -> dict[str, Any]:
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
        # The sample is already complete here, before its first image is inserted.
        "sampled_from": None if intake.sample is None else intake.findings.sampled_from,
        "notify_url": order.notify,
        "notify_secret": None if order.notify is None else make_secret(),
    }


def _insert_groups(
    groups: Iterable[Group],
    chunk_images: int | None,
    insert: Callable[[Group, Sequence[Part]], None],
    advance: Callable[[int], object],
) -> int:
    """Inserts all groups and returns the number of images. Prepares the next group meanwhile."""
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
    finally:  # an interrupted submit leaves no half-done insert if the database answers
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
    if digest is not None:  # here, in the background thread: hashing does not hold Python's lock
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
    """Whether an earlier try, whose commit was not reported, has inserted the chunk."""
    of_job = (chunks.c.job_number == draft.number) & (chunks.c.chunk == chunk)
    return connection.scalar(select(exists().where(of_job))) is True
