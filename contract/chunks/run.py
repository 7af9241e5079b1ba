"""A worker's moves: claim, refuse, begin alone, store, put back, give up.

Statements are built once, because building one costs more than executing it. They get their values
when they are executed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, Dialect, Float, Row, bindparam, exists, select, update

from contract import remaining
from contract.chunks import later
from contract.chunks.fence import GIVEN_BACK, HELD, IN_GENERATION, ITS_URIS, OF_CHUNK, Fence
from contract.chunks.later import Group
from contract.chunks.results import (
    ResultRow,
    add_tally,
    as_text,
    classes_of,
    failed_rows,
    insert_failed,
    insert_from_text,
    insert_results,
)
from contract.chunks.state import ChunkState
from contract.database.clock import db_now
from contract.database.tables import chunk_uris, chunks, jobs
from contract.failure import Failure
from contract.stages import Stages

MAX_FAULT_CHARS: Final = 300


class FencedOff(Exception):
    """Another run has the chunk by now."""


# Everything that a claim needs, in one statement: each statement costs as much as several images.
# The subqueries compare with parameters, not with `chunks`. SQLAlchemy renders RETURNING on SQLite
# without table names, so `chunk_uris.chunk = chunks.chunk` would become `chunk = chunk`, which is
# true for every row.
_URIS: Final = (
    chunk_uris.c.job_number == bindparam("the_job"),
    chunk_uris.c.chunk == bindparam("the_chunk"),
)
_CLAIMED: Final = (
    chunks.c.attempt,
    chunks.c.first_position,
    chunks.c.remaining,
    chunks.c.later,
    chunks.c.published_at,
    db_now().label("claimed_at"),
    select(jobs.c.weights_sha256)
    .where(jobs.c.number == bindparam("the_job"))
    .scalar_subquery()
    .label("weights_sha256"),
    select(jobs.c.total)
    .where(jobs.c.number == bindparam("the_job"))
    .scalar_subquery()
    .label("total"),
    select(chunk_uris.c.uris).where(*_URIS).scalar_subquery().label("uris"),
    select(chunk_uris.c.refs).where(*_URIS).scalar_subquery().label("refs"),
)
Claimed = Row[
    int,
    int,
    bytes,
    Sequence[Mapping[str, Any]] | None,
    datetime | None,
    datetime,
    str | None,
    int,
    Sequence[str],
    Sequence[str | None] | None,
]
_CLAIM: Final = (
    update(chunks)
    .where(
        *IN_GENERATION,
        chunks.c.state == ChunkState.QUEUED,
        exists().where(
            jobs.c.number == chunks.c.job_number,
            jobs.c.state == "running",
            # The queue stands for model, weights and precision, without a machine's folders.
            jobs.c.queue == bindparam("the_queue"),
        ),
    )
    .values(state=ChunkState.RUNNING, worker=bindparam("the_worker"), attempt=chunks.c.attempt + 1)
    .returning(*_CLAIMED)
)
_CLAIMED_BEFORE: Final = select(*_CLAIMED).where(*HELD)
_BEGIN_ALONE: Final = (
    update(chunks)
    .where(*HELD)
    .values(alone_offset=bindparam("the_offset"), alone_generation=chunks.c.generation)
)
_DUE: Final = {"due_at": db_now(bindparam("due_in_s", type_=Float()))}
_REFUSE: Final = (
    update(chunks)
    .where(*HELD)
    .values(state=ChunkState.PENDING, worker=None, attempt=GIVEN_BACK, **_DUE)
)
_STORE: Final = update(chunks).where(*HELD, chunks.c.remaining == bindparam("the_remaining"))
_STORE_DUE: Final = _STORE.values(_DUE)
_FOUND: Final = select(chunks.c.state, chunks.c.remaining, chunks.c.worker).where(*IN_GENERATION)
_HELD_BY: Final = select(chunks.c.job_number, chunks.c.chunk, chunks.c.generation).where(
    chunks.c.state == ChunkState.RUNNING, chunks.c.worker == bindparam("the_worker")
)


def claim(
    connection: Connection, fence: Fence, *, worker: str, queue: str, again: bool
) -> Claimed | None:
    """Claims the chunk for this worker; returns None if the worker cannot have it.

    Args:
        connection: for one statement, or inside a transaction.
        fence: the chunk and generation that the message names.
        worker: the worker's name.
        queue: the queue that the worker serves.
        again: an earlier try may have been committed although the answer was lost. (If another
            thread made that claim, both run the chunk and one of them stores it.)
    """
    parameters = fence.parameters(worker)
    row = connection.execute(_CLAIM, parameters | {"the_queue": queue}).one_or_none()
    if row is None and again:
        row = connection.execute(_CLAIMED_BEFORE, parameters).one_or_none()
    return row


def refuse(connection: Connection, fence: Fence, worker: str, *, due_in_s: float) -> None:
    """Returns the claimed chunk for another worker. Its images lose no attempt."""
    connection.execute(_REFUSE, fence.parameters(worker) | {"due_in_s": due_in_s})


def begin_alone(connection: Connection, fence: Fence, worker: str, offset: int) -> None:
    """Records that this image runs while nothing else is in flight in its worker."""
    connection.execute(_BEGIN_ALONE, fence.parameters(worker) | {"the_offset": offset})


def held_by(connection: Connection, worker: str) -> set[Fence]:
    """The chunks that this worker runs, according to SQL."""
    return {Fence(*row) for row in connection.execute(_HELD_BY, {"the_worker": worker})}


@dataclass(frozen=True, kw_only=True)
class Left:
    """The images that a run leaves unfinished in a chunk, by offset."""

    attempt: int
    """Which run of its images this was, from 1."""
    retried: Mapping[int, float] = field(default_factory=dict)
    """Images that were tried and will be tried again, with the wait of each in s."""
    untried: Collection[int] = ()
    """Images that were not tried: the run does not count as an attempt for them."""
    untried_in_s: float = 0.0
    loading: Collection[int] = ()
    """Images that the run still waits for."""
    groups: Sequence[Group] = ()
    """Images that wait for other times."""
    now: float = 0.0
    """Seconds since 1970, by the database's clock."""

    @property
    def offsets(self) -> set[int]:
        waiting = {offset for group in self.groups for offset in group.offsets}
        return {*self.retried, *self.untried, *self.loading, *waiting}

    def columns(self, worker: str) -> dict[str, Any]:
        """The chunk's new columns. `due_in_s` is present only if the chunk becomes due again."""
        left = self.offsets
        values: dict[str, Any] = {
            "state": ChunkState.DONE,
            "worker": None,
            "remaining": remaining.encode(left),
            "remaining_images": len(left),
            "attempt": self.attempt,
            "later": None,
            "fault": None,
        }
        if self.loading:
            # The run keeps the images to retry, and stores them with its last images.
            kept = {"later": later.encode(self.groups)}
            return values | {"state": ChunkState.RUNNING, "worker": worker} | kept
        first, rest = later.next_of([*self._new_groups(), *self.groups])
        if first is None:
            return values
        return values | {
            "state": ChunkState.PENDING,
            "attempt": first.attempt,
            "due_in_s": max(0.0, first.due - self.now),
            "later": later.encode(rest),
        }

    def _new_groups(self) -> list[Group]:
        groups = later.by_wait(self.retried, attempt=self.attempt, now=self.now)
        untried = tuple(sorted(self.untried))
        return [*groups, Group(self.now + self.untried_in_s, max(0, self.attempt - 1), untried)]


def store(  # noqa: PLR0913  (what one transaction writes)
    connection: Connection,
    fence: Fence,
    worker: str,
    *,
    before: Iterable[int],
    left: Left,
    rows: Sequence[ResultRow],
    errors: Mapping[str, int],
    fault: str | None = None,
    stages: Stages | None = None,
) -> None:
    """Stores the chunk's new state, the rows and their tally. The fenced change of the chunk comes
    first.

    Args:
        connection: for one statement, on PostgreSQL; otherwise inside a transaction.
        fence: the run's chunk and generation.
        worker: the worker's name.
        before: offsets that were left before this store.
        left: the images that are left after it.
        rows: rows of finished images.
        errors: number of failed images in `rows`, by error code.
        fault: the error in this program that the run met, which `status` shows.
        stages: how long the images of `rows` took; see `contract.stages`.

    Raises:
        FencedOff: another run has the chunk by now; nothing is stored.
    """
    values = left.columns(worker) | {"fault": short(fault)}
    parameters = fence.parameters(worker) | {"the_remaining": remaining.encode(before)} | values
    if connection.dialect.name == "postgresql":
        stored = _store_at_once(connection, parameters, rows, errors, stages=stages)
    else:
        stored = _store_in_turn(connection, parameters, rows, errors, stages=stages)
    if not stored:
        _check_stored_before(connection, fence, values)


def _store_at_once(
    connection: Connection,
    parameters: Mapping[str, Any],
    rows: Sequence[ResultRow],
    errors: Mapping[str, int],
    *,
    stages: Stages | None,
) -> bool:
    """Stores all of it in one statement; False if the worker does not hold the chunk unchanged."""
    failed = sum(errors.values())
    given = dict(parameters) | {
        "state": parameters["state"].value,
        "later": None if parameters["later"] is None else json.dumps(parameters["later"]),
        "due_in_s": parameters.get("due_in_s"),
        "the_rows": as_text(rows),
        "classified": len(rows) - failed,
        "failed": failed,
        "errors": json.dumps(errors),
        "classes": json.dumps(classes_of(rows)) if len(rows) > failed else None,
        "stages": json.dumps(stages) if stages else None,
    }
    stored = connection.exec_driver_sql(_store_in_one(connection.dialect), given)
    return bool(stored.scalar_one())


@cache
def _store_in_one(dialect: Dialect) -> str:
    return f"""
WITH stored AS (
    UPDATE chunks SET state = %(state)s, worker = %(worker)s, remaining = %(remaining)s,
        remaining_images = %(remaining_images)s, attempt = %(attempt)s,
        later = %(later)s::json, fault = %(fault)s,
        due_at = coalesce(
            clock_timestamp() + make_interval(secs => %(due_in_s)s::double precision), due_at
        )
    WHERE job_number = %(the_job)s AND chunk = %(the_chunk)s AND generation = %(the_generation)s
        AND state = 'running' AND worker = %(the_worker)s AND remaining = %(the_remaining)s
    RETURNING job_number
), inserted AS (
    {insert_from_text(dialect, "%(the_rows)s", "stored")}
), tallied AS (
    INSERT INTO tallies (job_number, classified, failed, errors, classes, stages)
    SELECT job_number, %(classified)s, %(failed)s, %(errors)s::json, %(classes)s::json,
        %(stages)s::json
    FROM stored
    WHERE %(classified)s::int + %(failed)s::int > 0
)
SELECT count(*) FROM stored
"""  # noqa: S608  (our own columns)


def _store_in_turn(
    connection: Connection,
    parameters: Mapping[str, Any],
    rows: Sequence[ResultRow],
    errors: Mapping[str, int],
    *,
    stages: Stages | None,
) -> bool:
    """Does the same within a transaction, for SQLite."""
    statement = _STORE_DUE if "due_in_s" in parameters else _STORE
    if connection.execute(statement, dict(parameters)).rowcount != 1:
        return False
    if rows:
        insert_results(connection, rows)
        classified = len(rows) - sum(errors.values())
        add_tally(
            connection,
            parameters["the_job"],
            classified=classified,
            errors=errors,
            classes=classes_of(rows),
            stages=stages,
        )
    return True


def _check_stored_before(connection: Connection, fence: Fence, values: Mapping[str, Any]) -> None:
    """Checks that an earlier try of this store was committed although its answer was lost.

    Raises:
        FencedOff: another run changed the chunk.
    """
    found = connection.execute(_FOUND, fence.parameters()).one_or_none()
    if found == (values["state"], values["remaining"], values["worker"]):
        return
    raise FencedOff(
        f"job {fence.job_number} chunk {fence.chunk} generation {fence.generation}: "
        "another run has this chunk by now"
    )


@dataclass(frozen=True, kw_only=True)
class Fault:
    """An error in this program that ended a run before it could store anything."""

    text: str
    max_attempts: int
    due_in_s: float
    alone: int | None = None
    """The position of the only image that ran; None: SQL knows it."""


def put_back(connection: Connection, fence: Fence, worker: str, fault: Fault) -> int:
    """Returns a chunk after an error in this program ended its run or its claim. This counts as an
    attempt.

    After the last attempt each image of the run gets a row with `internal`, so that no job waits
    for ever. It relies only on SQL and on nothing from the run, because the run is what failed.

    Returns:
        The number of images that got such a row.
    """
    chunk = connection.execute(
        select(chunks, chunk_uris.c.uris, chunk_uris.c.refs)
        .join(chunk_uris, ITS_URIS)
        .where(*IN_GENERATION)
        .with_for_update(of=chunks),
        fence.parameters(),
    ).one_or_none()
    if chunk is None or not _may_put_back(chunk, worker):
        return 0
    attempt = chunk.attempt + (chunk.state == ChunkState.QUEUED)  # its claim was rolled back
    left = remaining.decode(chunk.remaining)
    run = later.current(left, chunk.later)
    alone = _alone(chunk, fault)
    others = [offset for offset in run if alone not in (None, offset)]
    groups = later.decode(chunk.later)
    failed = [offset for offset in run if offset not in others]
    if attempt >= fault.max_attempts and failed:
        now = chunk.due_at.timestamp()
        first, groups = later.next_of([Group(now, max(0, attempt - 1), tuple(others)), *groups])
        after = Group(0.0, 0, ()) if first is None else first
        failure = Failure("internal", fault.text)
        rows = failed_rows(chunk, failed, failure, attempts=attempt, worker=worker)
        insert_failed(connection, fence.job_number, rows, failure.code)
        due_at: Any = datetime.fromtimestamp(after.due, UTC)
        attempt = after.attempt
    else:
        failed, due_at = [], db_now(fault.due_in_s)
    left = [offset for offset in left if offset not in failed]
    connection.execute(
        update(chunks)
        .where(*OF_CHUNK)
        .values(
            state=ChunkState.PENDING if left else ChunkState.DONE,
            worker=None,
            attempt=attempt,
            due_at=due_at,
            remaining=remaining.encode(left),
            remaining_images=len(left),
            later=later.encode(groups),
            fault=short(fault.text),
        ),
        fence.parameters(),
    )
    return len(failed)


def _alone(chunk: Row[Any], fault: Fault) -> int | None:
    """The offset of the only image that ran; None if all current images ran."""
    if fault.alone is not None:
        return int(fault.alone - chunk.first_position)
    return chunk.alone_offset if chunk.alone_generation == chunk.generation else None


def _may_put_back(chunk: Row[Any], worker: str) -> bool:
    if chunk.state == ChunkState.RUNNING:
        return bool(chunk.worker == worker)
    return bool(chunk.state == ChunkState.QUEUED)


def short(fault: str | None) -> str | None:
    """Shortens a fault for `chunks.fault`."""
    return None if fault is None else fault[:MAX_FAULT_CHARS]
