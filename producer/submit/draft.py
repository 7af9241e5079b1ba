"""A job that is being submitted: its row in state `submitting`, from the first image to the last.

`submit` begins a draft, keeps its heartbeat going, and sets it running or discards it. A submit
that is killed does neither: its heartbeat stops. Then another submit may take its key, and after
an hour the dispatcher (`producer.dispatcher.abandoned`) removes it.

A draft is removed in two steps. The first sets its state to `abandoned`, so that its submit cannot
go on with it, should it come back. Then its chunks are deleted, some hundred in a transaction:
deleting millions at once would hold up everything else.
"""

from __future__ import annotations

import threading
import time
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

from contract.chunks.results import delete_some
from contract.database.clock import db_now
from contract.database.tables import chunk_uris, chunks, jobs
from contract.database.waits import Database
from contract.errors import UnavailableError

HEARTBEAT_S: Final = 2.0
SILENT_S: Final = 15.0
"""Without a heartbeat for so long, a submit counts as dead: another one may take its key."""
ABANDONED_AFTER_S: Final = 3_600.0
"""And after so long its draft is removed."""
OLD_DRAFT_S: Final = 86_400.0
"""The version before has no heartbeat: its drafts count from their beginning."""
# Some megabytes: others wait for tens of milliseconds.
CHUNKS_A_TRANSACTION: Final = 512
# Rows of images whose lines gave no URI.
FAILED_A_TRANSACTION: Final = 8_192
POLL_S: Final = 0.25
STOP_WITHIN_S: Final = 2.0


class TakenAwayError(UnavailableError):
    """The draft is not this submit's any more: its job was cancelled, a later submit with the same
    key took its place, or it was removed because its heartbeat had stopped.
    """


class SubmitInProgressError(UnavailableError):
    """Another submit with the same key has not finished yet. An HTTP API answers 409."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    number: int
    id: str
    owner: str
    key: str | None
    created_at: datetime


def insert_draft(database: Database, row: dict[str, Any]) -> Draft:
    """Inserts a job's row in state `submitting`.

    A dead draft with the same key gives it up and is removed. So does an earlier try of this very
    insert, whose commit was not reported.

    Raises:
        IntegrityError: a job has the key.
    """

    def work(connection: Connection) -> tuple[Draft, list[int]]:
        connection.execute(delete(jobs).where(jobs.c.id == row["id"], _is_draft()))
        dead = _with_key(row["owner"], row["key"]) & _is_draft() & _is_silent()
        left = _abandon(connection, dead) if row["key"] is not None else []
        number, created_at = connection.execute(
            insert(jobs)
            .values(**row, state="submitting", created_at=db_now(), submit_heartbeat_at=db_now())
            .returning(jobs.c.number, jobs.c.created_at)
        ).one()
        draft = Draft(
            number=number,
            id=row["id"],
            owner=row["owner"],
            key=row["key"],
            created_at=created_at,
        )
        return draft, left

    draft, left = database.transact(work)
    for number in left:
        _remove(database, number)
    return draft


def await_silence(database: Database, owner: str, key: str) -> None:
    """Returns where no live submit has the key; a submit that was just killed is waited for.

    Raises:
        SubmitInProgressError: the submit that has the key is alive.
    """
    first = _heartbeat(database, owner, key)
    seen = first
    while seen is not None and not seen.silent:
        if seen != first:
            raise SubmitInProgressError(
                f"The key {key!r} is in use: job {seen.id} is still being submitted with it. "
                "Wait until that submit ends, and try again; or use another key."
            )
        time.sleep(POLL_S)
        seen = _heartbeat(database, owner, key)


def _heartbeat(database: Database, owner: str, key: str) -> Row[Any] | None:
    statement = select(jobs.c.id, jobs.c.submit_heartbeat_at, _is_silent().label("silent"))
    statement = statement.where(_with_key(owner, key), _is_draft())
    return database.read(lambda connection: connection.execute(statement).one_or_none())


class Heartbeat:
    """Tells the database in a thread of its own that this submit is alive, also while it waits for
    its images. To be used in a `with` block.
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
        self._thread.join(STOP_WITHIN_S)  # it may be waiting for a database that is away

    def _run(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            with suppress(SQLAlchemyError), self._engine.begin() as connection:
                connection.execute(self._beat)


def check_ours(connection: Connection, draft: Draft) -> None:
    """The draft is there, and stays until the transaction ends.

    Raises:
        TakenAwayError: it is not.
    """
    statement = select(jobs.c.id).where(_is_this(draft))
    if connection.execute(statement.with_for_update(read=True, key_share=True)).first() is None:
        raise _taken_away(connection, draft)


def set_running(database: Database, draft: Draft, **values: Any) -> None:  # noqa: ANN401  (columns)
    """The one statement that makes the job exist for the others.

    Raises:
        TakenAwayError: it is not this submit's any more.
    """
    is_over = values.get("failed", 0) == values["total"]
    values |= {"state": "completed" if is_over else "running", "submit_heartbeat_at": None}
    if is_over:  # no image is left that a worker could finish the job with
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
    """Deletes a draft and its chunks. A job that runs is not ours to delete."""
    with engine.begin() as connection:
        left = _abandon(connection, _is_this(draft))
    for number in left:
        _remove(Database(engine), number)


def abandon_dead(connection: Connection) -> list[int]:
    """Gives up the drafts whose submit has had no heartbeat for an hour; returns their numbers."""
    last_alive_at = func.coalesce(
        jobs.c.submit_heartbeat_at < db_now(-ABANDONED_AFTER_S),
        jobs.c.created_at < db_now(-OLD_DRAFT_S),
    )
    dead = (
        select(jobs.c.number)
        .where(_is_draft(), last_alive_at)
        .with_for_update(skip_locked=True)
        .cte("dead")  # evaluated once, whatever the plan
    )
    return _abandon(connection, jobs.c.number.in_(select(dead)))


def remove_some(connection: Connection, number: int) -> bool:
    """Deletes some chunks of an abandoned draft, and its row with the last of them; whether
    something is left.
    """
    abandoned = select(jobs.c.id).where(jobs.c.number == number, jobs.c.state == "abandoned")
    if connection.execute(abandoned.with_for_update()).first() is None:
        return False
    if delete_some(connection, number, FAILED_A_TRANSACTION):
        return True
    first = connection.scalar(select(func.min(chunks.c.chunk)).where(chunks.c.job_number == number))
    if first is None:
        connection.execute(delete(jobs).where(jobs.c.number == number))
        return False
    for table in (chunk_uris, chunks):
        connection.execute(
            delete(table).where(
                table.c.job_number == number, table.c.chunk < first + CHUNKS_A_TRANSACTION
            )
        )
    return True


def is_visible() -> ColumnElement[bool]:
    """People see a job: it is whole, or its submit is alive."""
    whole = jobs.c.state.not_in(("submitting", "abandoned"))
    alive = func.coalesce(
        jobs.c.submit_heartbeat_at > db_now(-SILENT_S), jobs.c.created_at > db_now(-OLD_DRAFT_S)
    )
    return whole | (_is_draft() & alive)


def _remove(database: Database, number: int) -> None:
    while database.transact(lambda connection: remove_some(connection, number)):
        pass


def _abandon(connection: Connection, which: ColumnElement[bool]) -> list[int]:
    """Their numbers. The key is free from now on."""
    given_up = update(jobs).where(which).values(state="abandoned", key=None)
    return list(connection.scalars(given_up.returning(jobs.c.number)))


def _is_draft() -> ColumnElement[bool]:
    return jobs.c.state == "submitting"


def _is_this(draft: Draft) -> ColumnElement[bool]:
    """Asked by the id: SQLite gives the number of a deleted job to the next one."""
    return (jobs.c.id == draft.id) & _is_draft()


def _is_silent() -> ColumnElement[bool]:
    """A draft of the version before gives way at once, as it did then."""
    return func.coalesce(jobs.c.submit_heartbeat_at < db_now(-SILENT_S), true())


def _with_key(owner: str, key: str | None) -> ColumnElement[bool]:
    return (jobs.c.owner == owner) & (jobs.c.key == key)


def _is_whole(connection: Connection, draft: Draft) -> bool:
    """An earlier try was committed; the job may run by now, or even be complete."""
    state = connection.scalar(select(jobs.c.state).where(jobs.c.id == draft.id))
    return state in ("running", "completed")


def _taken_away(connection: Connection, draft: Draft) -> TakenAwayError:
    if connection.scalar(select(jobs.c.state).where(jobs.c.id == draft.id)) == "cancelled":
        return TakenAwayError(f"Job {draft.id} was cancelled while it was being submitted.")
    if draft.key is not None and connection.scalar(
        select(jobs.c.id).where(_with_key(draft.owner, draft.key))
    ):
        return TakenAwayError(
            f"Job {draft.id} was taken away by a later `submit` with the same key, which goes on "
            "in its place. Nothing is submitted twice; `resnextq list` shows the job that there "
            "is now."
        )
    return TakenAwayError(
        f"Job {draft.id} was removed while it was being submitted: its `submit` had shown no sign "
        f"of life for {ABANDONED_AFTER_S / 60:.0f} minutes, since it was stopped or could not "
        "reach the database. Nothing was submitted; run the same `submit` again."
    )
