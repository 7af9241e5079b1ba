"""A job that is being submitted: its row in state `submitting`, from the first image to the last.

`submit` begins a draft, keeps its heartbeat going, and sets it running or discards it. A killed
submit does neither, and its heartbeat stops. Then another submit may take its key, and after an
hour the dispatcher (`producer.dispatcher.abandoned`) removes the draft.

A draft is removed in two steps; see `producer.removal`. The first sets its state to `abandoned`, so
that its submit cannot continue it if it comes back. The second deletes its rows in parts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    delete,
    func,
    insert,
    select,
    true,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from contract.database.clock import db_now
from contract.database.tables import job_tags, jobs
from contract.database.waits import Database
from contract.errors import UnavailableError
from producer.removal import Removal, mark

HEARTBEAT_S: Final = 2.0
SILENT_S: Final = 15.0
"""A submit without a heartbeat for this long counts as dead. Another submit may take its key."""
ABANDONED_AFTER_S: Final = 3_600.0
"""A draft without a heartbeat for this long is removed."""
OLD_DRAFT_S: Final = 86_400.0
"""Drafts of the previous version have no heartbeat. Their age counts instead."""
POLL_S: Final = 0.25
STOP_WITHIN_S: Final = 2.0


class TakenAwayError(UnavailableError):
    """This submit has lost its draft: the job was cancelled, a later submit with the same key
    replaced it, or it was removed because its heartbeat had stopped.
    """


class SubmitInProgressError(UnavailableError):
    """Another submit with the same key is still running. An HTTP API answers 409."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    number: int
    id: str
    owner: str
    key: str | None
    created_at: datetime
    notify_secret: str | None = None


def insert_draft(database: Database, row: dict[str, Any], tags: Mapping[str, str]) -> Draft:
    """Inserts a job's row in state `submitting`.

    Removes a dead draft with the same key, and an earlier try of this insert whose commit was not
    reported.

    Raises:
        IntegrityError: a job has the key.
    """

    def work(connection: Connection) -> tuple[Draft, list[int]]:
        connection.execute(delete(jobs).where(jobs.c.id == row["id"], _is_draft()))
        dead = _with_key(row["owner"], row["key"]) & _is_draft() & _is_silent()
        left = mark(connection, dead) if row["key"] is not None else []
        number, created_at = connection.execute(
            insert(jobs)
            .values(**row, state="submitting", created_at=db_now(), submit_heartbeat_at=db_now())
            .returning(jobs.c.number, jobs.c.created_at)
        ).one()
        if tags:
            rows = [{"job_number": number, "key": key, "value": tags[key]} for key in sorted(tags)]
            connection.execute(insert(job_tags), rows)
        draft = Draft(
            number=number,
            id=row["id"],
            owner=row["owner"],
            key=row["key"],
            created_at=created_at,
            notify_secret=row.get("notify_secret"),
        )
        return draft, left

    draft, left = database.transact(work)
    for number in left:
        _remove(database, number)
    return draft


def await_silence(database: Database, owner: str, key: str) -> None:
    """Returns when no live submit has the key. Waits for a submit that was killed just now.

    Raises:
        SubmitInProgressError: the submit that has the key is alive.
    """
    first = _heartbeat(database, owner, key)
    seen = first
    while seen is not None and not seen.silent:
        if seen != first:
            raise SubmitInProgressError(
                f"The key {key!r} is in use: job {seen.id} is still being submitted with it. Wait "
                "until that submit ends and try again, or use another key."
            )
        time.sleep(POLL_S)
        seen = _heartbeat(database, owner, key)


def _heartbeat(database: Database, owner: str, key: str) -> Row[Any] | None:
    statement = select(jobs.c.id, jobs.c.submit_heartbeat_at, _is_silent().label("silent"))
    statement = statement.where(_with_key(owner, key), _is_draft())
    return database.read(lambda connection: connection.execute(statement).one_or_none())


class Heartbeat:
    """Keeps this submit's heartbeat going in its own thread, also while it waits for images. Use it
    in a `with` block.
    """

    def __init__(self, engine: Engine, draft: Draft) -> None:
        self._engine = engine
        self._beat = update(jobs).where(_is_this(draft)).values(submit_heartbeat_at=db_now())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(STOP_WITHIN_S)  # the thread may be waiting for an unavailable database

    def _run(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            with suppress(SQLAlchemyError), self._engine.begin() as connection:
                connection.execute(self._beat)


def check_ours(connection: Connection, draft: Draft) -> None:
    """Checks that the draft still exists and locks it until the transaction ends.

    Raises:
        TakenAwayError: the draft is gone.
    """
    statement = select(jobs.c.id).where(_is_this(draft))
    if connection.execute(statement.with_for_update(read=True, key_share=True)).first() is None:
        raise _taken_away(connection, draft)


def set_running(database: Database, draft: Draft, **values: Any) -> None:  # noqa: ANN401  (columns)
    """Makes the job visible to all others, with one statement.

    Raises:
        TakenAwayError: this submit has lost its draft.
    """
    is_over = values.get("failed", 0) == values["total"]
    values |= {"state": "completed" if is_over else "running", "submit_heartbeat_at": None}
    if is_over:  # no image is left for a worker, so the job is finished now
        values["finished_at"] = db_now()
    tries = 0

    def work(connection: Connection) -> None:
        nonlocal tries
        tries += 1
        changed = connection.execute(update(jobs).where(_is_this(draft)).values(**values))
        if changed.rowcount != 1 and not (tries > 1 and _is_whole(connection, draft)):
            raise _taken_away(connection, draft)

    database.transact(work)


def discard(engine: Engine, draft: Draft) -> None:
    """Deletes a draft and its chunks. Leaves a job alone that is already running."""
    with engine.begin() as connection:
        left = mark(connection, _is_this(draft))
    for number in left:
        _remove(Database(engine), number)


def abandon_dead(connection: Connection) -> list[int]:
    """Marks drafts whose submit has had no heartbeat for an hour. Returns their numbers."""
    last_alive_at = func.coalesce(
        jobs.c.submit_heartbeat_at < db_now(-ABANDONED_AFTER_S),
        jobs.c.created_at < db_now(-OLD_DRAFT_S),
    )
    dead = (
        select(jobs.c.number)
        .where(_is_draft(), last_alive_at)
        .with_for_update(skip_locked=True)
        .cte("dead")  # evaluated only once, whatever the plan
    )
    return mark(connection, jobs.c.number.in_(select(dead)))


def is_visible() -> ColumnElement[bool]:
    """Whether people see a job: it is complete, or its submit is alive."""
    whole = jobs.c.state.not_in(("submitting", "abandoned"))
    alive = func.coalesce(
        jobs.c.submit_heartbeat_at > db_now(-SILENT_S), jobs.c.created_at > db_now(-OLD_DRAFT_S)
    )
    return whole | (_is_draft() & alive)


def _remove(database: Database, number: int) -> None:
    removal = Removal(number, database.transact)
    while removal.step() is not None:
        pass


def _is_draft() -> ColumnElement[bool]:
    return jobs.c.state == "submitting"


def _is_this(draft: Draft) -> ColumnElement[bool]:
    """Selects by id, because SQLite reuses the number of a deleted job."""
    return (jobs.c.id == draft.id) & _is_draft()


def _is_silent() -> ColumnElement[bool]:
    """Drafts of the previous version have no heartbeat and count as silent."""
    return func.coalesce(jobs.c.submit_heartbeat_at < db_now(-SILENT_S), true())


def _with_key(owner: str, key: str | None) -> ColumnElement[bool]:
    return (jobs.c.owner == owner) & (jobs.c.key == key)


def _is_whole(connection: Connection, draft: Draft) -> bool:
    """Whether an earlier try was committed. The job may already run or be completed."""
    state = connection.scalar(select(jobs.c.state).where(jobs.c.id == draft.id))
    return state in ("running", "completed")


def _taken_away(connection: Connection, draft: Draft) -> TakenAwayError:
    if connection.scalar(select(jobs.c.state).where(jobs.c.id == draft.id)) == "cancelled":
        return TakenAwayError(f"Job {draft.id} was cancelled while it was being submitted.")
    if draft.key is not None and connection.scalar(
        select(jobs.c.id).where(_with_key(draft.owner, draft.key))
    ):
        return TakenAwayError(
            f"Job {draft.id} was replaced by a later `submit` with the same key, which continues "
            "in its place. Nothing is submitted twice; `resnextq list` shows the new job."
        )
    return TakenAwayError(
        f"Job {draft.id} was removed while it was being submitted: its `submit` had no heartbeat "
        f"for {ABANDONED_AFTER_S / 60:.0f} minutes, because it was stopped or could not reach the "
        "database. Nothing was submitted; run the same `submit` again."
    )
