"""A job as people see it, read from SQL with counts that are exact at any moment.

Workers add tallies, and the dispatcher adds these up in the job. One SQL statement, thus one
snapshot, reads both, so no image is missed or counted twice. Called by `status`, `list`, `results`
and `submit`.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import groupby
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Float,
    Row,
    Select,
    bindparam,
    func,
    select,
)

from contract.chunks.faults import faults_of
from contract.chunks.remove import ABANDONED
from contract.database.clock import db_now, iso
from contract.database.engine import reading
from contract.database.tables import job_tags, jobs, tallies, workers
from contract.errors import UnknownJobError
from producer.submit.draft import is_visible

# A shorter text is more likely a typing error than an abbreviated id.
MIN_ID_CHARS: Final = 4
LAST: Final = "last"
# How many recent jobs to search for ids like a mistyped one, and how many to suggest.
RECENT_JOBS: Final = 1_000
SHOWN_JOBS: Final = 3
MOST_SHOWN_CHARS: Final = 64
GIVEN_UP: Final = ("cancelled", "expired")
"""Error codes of images that were still pending when their job ended."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A row of `jobs`, with its tallies already added."""

    number: int
    id: str
    name: str | None
    owner: str
    key: str | None
    state: str
    paused_at: datetime | None
    """When the job was paused. None: it is not paused."""
    priority: int
    tags: dict[str, str]
    model: str
    weights: str
    weights_sha256: str | None
    """None: no worker has claimed one of its chunks yet."""
    precision: str
    queue: str
    created_at: datetime
    expires_at: datetime | None
    finished_at: datetime | None
    idle_s: float
    """Seconds between its ends and its retries."""
    stop_at_failures: float | None
    """Share of failed images, above 0 and up to 1, at which the rest of the job is cancelled."""
    total: int
    """0 while the job is being submitted."""
    classified: int
    failed: int
    errors: dict[str, int]
    """Images by error code, the most frequent first."""
    recent_images_per_s: float
    """A moving average, kept by the dispatcher."""
    faults: dict[str, int]
    """Number of chunks whose last run met a fault of this program, by fault."""

    @property
    def pending(self) -> int:
        return max(0, self.total - self.classified - self.failed)

    @property
    def given_up(self) -> dict[str, int]:
        """Failed images that were never tried to the end, by reason: the job was cancelled, or it
        expired.
        """
        return {code: self.errors[code] for code in GIVEN_UP if code in self.errors}

    @property
    def at_fault(self) -> int:
        """The other failed images: something is wrong with them or with their server."""
        return max(0, self.failed - sum(self.given_up.values()))

    def is_waiting(self, served: Counter[str]) -> bool:
        """The job could continue, but no live worker serves its queue."""
        return (
            self.state == "running"
            and self.paused_at is None
            and bool(self.pending)
            and not served[self.queue]
        )

    @property
    def is_live(self) -> bool:
        """The job is still being submitted or classified."""
        return self.state in ("submitting", "running")

    @property
    def is_finished(self) -> bool:
        """The job has ended, and each of its images has its row."""
        return self.state == "completed" or (not self.is_live and self.finished_at is not None)

    @property
    def took_s(self) -> float | None:
        """Seconds from its submit to its end, without those between an end and a retry. None: it
        has not ended.
        """
        if self.finished_at is None:
            return None
        return max(0.0, (self.finished_at - self.created_at).total_seconds() - self.idle_s)

    @property
    def images_per_s(self) -> float:
        """The current rate. For a completed job, the mean over the time that it took."""
        if self.state != "completed" or not self.took_s:
            return self.recent_images_per_s
        return self.total / self.took_s

    @property
    def eta_s(self) -> float | None:
        """Seconds until no image is pending. None if there is no rate yet."""
        rate = self.images_per_s
        return self.pending / rate if rate > 0 else None


def find_exactly(connection: Connection, job_id: str) -> Job:
    """The job with exactly this id, for programs. The error suggests no other jobs.

    Raises:
        UnknownJobError: no job has this id.
    """
    found: list[Job] = []
    if job_id.isascii() and job_id.isalnum():
        found = _read(connection, _with_id(), id=job_id)
    if not found:
        raise UnknownJobError(f"No job has the id {job_id[:MOST_SHOWN_CHARS]!r}.")
    return found[0]


def find_job(connection: Connection, text: str) -> Job:
    """The job with this id, or the only job with this name or with an id that begins like this.

    `last` is the newest job, unless a job has the id `last`.

    Raises:
        UnknownJobError: no job matches, or more than one.
    """
    return read_job(connection, _find_number(connection, text))


def owner_of(engine: Engine, job_id: str) -> str | None:
    """The owner of the job with exactly this id. None: there is no such job."""
    with reading(engine) as connection:
        return connection.scalar(select(jobs.c.owner).where(jobs.c.id == job_id))


def read_job(connection: Connection, number: int) -> Job:
    """The job with this number.

    Raises:
        UnknownJobError: the job has been deleted.
    """
    found = read_jobs(connection, [number])
    if not found:
        raise UnknownJobError("The job has been deleted.")
    return found[0]


def lock_state(connection: Connection, number: int) -> str:
    """Locks the job and returns its state, which cannot change until this transaction ends.

    Workers may still insert rows that refer to the job: the lock does not cover its key.

    Raises:
        UnknownJobError: the job has been deleted.
    """
    statement = select(jobs.c.state).where(jobs.c.number == number)
    state: str | None = connection.scalar(statement.with_for_update(key_share=True))
    if state is None or state == ABANDONED:
        raise UnknownJobError("The job has been deleted.")
    return state


def read_jobs(connection: Connection, numbers: Collection[int]) -> list[Job]:
    """The existing jobs among these numbers, the newest first."""
    return _read(connection, _with_numbers(), numbers=list(numbers))


def read_chosen(connection: Connection, chosen: Select[Any]) -> list[Job]:
    """The jobs that `chosen` selects from `jobs`, the newest first."""
    return _read(connection, _with_tallies(chosen))


def live_workers(connection: Connection, lease_s: float) -> Counter[str]:
    """Number of live workers by queue: those with a heartbeat within the lease."""
    rows = connection.execute(_live_workers(), {"since": -lease_s})
    return Counter({row.queue: row.live for row in rows})


def as_json(job: Job, served: Counter[str]) -> dict[str, Any]:
    """The object that `--json` prints and the API sends. `served` comes from `live_workers`."""
    return {
        "id": job.id,
        "name": job.name,
        "owner": job.owner,
        "key": job.key,
        "tags": job.tags,
        "state": job.state,
        "paused": job.paused_at is not None,
        "priority": job.priority,
        "model": job.model,
        "weights": job.weights,
        "weights_sha256": job.weights_sha256,
        "precision": job.precision,
        "queue": job.queue,
        "served": served[job.queue],
        "total": job.total,
        "classified": job.classified,
        "failed": job.failed,
        "pending": job.pending,
        "images_per_s": round(job.images_per_s, 3),
        "eta_s": None if job.eta_s is None else round(job.eta_s, 3),
        "took_s": None if job.took_s is None else round(job.took_s, 3),
        "created_at": iso(job.created_at),
        "expires_at": None if job.expires_at is None else iso(job.expires_at),
        "finished_at": None if job.finished_at is None else iso(job.finished_at),
        "errors": job.errors,
        "faults": job.faults,
    }


# A server reads jobs hundreds of times a second, and building a statement takes longer than
# executing it. So statements that never change are built once.


@cache
def _with_id() -> Select[Any]:
    return _with_tallies(select(jobs).where(jobs.c.id == bindparam("id"), _is_there()))


@cache
def _with_numbers() -> Select[Any]:
    numbers = bindparam("numbers", expanding=True, type_=jobs.c.number.type)
    return _with_tallies(select(jobs).where(jobs.c.number.in_(numbers), _is_there()))


@cache
def _tags() -> Select[Any]:
    numbers = bindparam("numbers", expanding=True, type_=jobs.c.number.type)
    return select(job_tags).where(job_tags.c.job_number.in_(numbers)).order_by(job_tags.c.key)


@cache
def _live_workers() -> Select[Any]:
    return (
        select(workers.c.queue, func.count().label("live"))
        .where(workers.c.heartbeat_at >= db_now(bindparam("since", type_=Float())))
        .where(~workers.c.stopping)
        .group_by(workers.c.queue)
    )


def _with_tallies(chosen: Select[Any]) -> Select[Any]:
    """The chosen jobs, newest first, with a row for each of their tallies."""
    job = chosen.subquery()
    return (
        select(
            job,
            tallies.c.classified.label("more_classified"),
            tallies.c.failed.label("more_failed"),
            tallies.c.errors.label("more_errors"),
        )
        .select_from(job.outerjoin(tallies, tallies.c.job_number == job.c.number))
        .order_by(job.c.number.desc())
    )


def _read(connection: Connection, statement: Select[Any], **values: Any) -> list[Job]:  # noqa: ANN401
    """Reads the jobs of a `_with_tallies` statement: one statement, so one snapshot."""
    rows = connection.execute(statement, values).all()
    numbers = {row.number for row in rows}
    faults = faults_of(connection, numbers)
    tags = _tags_of(connection, numbers)
    return [
        _make_job(list(group), faults.get(number, Counter()), tags.get(number, {}))
        for number, group in groupby(rows, key=lambda row: row.number)
    ]


def _tags_of(connection: Connection, numbers: Collection[int]) -> dict[int, dict[str, str]]:
    tags: dict[int, dict[str, str]] = {}
    for row in connection.execute(_tags(), {"numbers": list(numbers)}):
        tags.setdefault(row.job_number, {})[row.key] = row.value
    return tags


def _make_job(rows: list[Row[Any]], faults: Counter[str], tags: dict[str, str]) -> Job:
    """Makes one job of its rows, one row per tally."""
    row = rows[0]
    errors = Counter[str](row.errors)
    for tally in rows:
        errors.update(tally.more_errors or {})
    return Job(
        number=row.number,
        id=row.id,
        name=row.name,
        owner=row.owner,
        key=row.key,
        state=row.state,
        paused_at=row.paused_at,
        priority=row.priority,
        tags=tags,
        model=row.model,
        weights=row.weights,
        weights_sha256=row.weights_sha256,
        precision=row.precision,
        queue=row.queue,
        created_at=row.created_at,
        expires_at=row.expires_at,
        finished_at=row.finished_at,
        idle_s=row.idle_s or 0.0,
        stop_at_failures=row.stop_at_failures,
        total=row.total,
        classified=row.classified + sum(tally.more_classified or 0 for tally in rows),
        failed=row.failed + sum(tally.more_failed or 0 for tally in rows),
        # A retry subtracts here what may still be in a tally, so a sum can be zero.
        errors={
            code: images
            for code, images in sorted(errors.items(), key=lambda one: (-one[1], one[0]))
            if images
        },
        recent_images_per_s=row.images_per_s,
        faults=dict(faults.most_common()),
    )


def _find_number(connection: Connection, text: str) -> int:
    is_id = text.isascii() and text.isalnum()
    if is_id:
        exact = connection.scalar(select(jobs.c.number).where(jobs.c.id == text, _is_there()))
        if exact is not None:
            return int(exact)
    if text == LAST:
        newest = select(func.max(jobs.c.number)).where(is_visible())
        number = connection.scalar(newest)
    else:
        number = _only_match(connection, text, is_id=is_id)
    if number is None:
        raise UnknownJobError(
            f"No job has the id or the name {text!r}. {_suggest(connection, text)}"
        )
    return int(number)


def _only_match(connection: Connection, text: str, *, is_id: bool) -> int | None:
    """The number of the only job with this name, or with an id that begins with this text.

    Raises:
        UnknownJobError: more than one job matches.
    """
    if not text.isprintable():  # names are printable, and PostgreSQL refuses a NUL
        return None
    matches = jobs.c.name == text
    if is_id and len(text) >= MIN_ID_CHARS:
        matches |= jobs.c.id.startswith(text.lower(), autoescape=True)
    statement = select(jobs.c.number, jobs.c.id).where(matches, _is_there())
    found = connection.execute(statement.order_by(jobs.c.number.desc())).all()
    if len(found) > 1:
        raise UnknownJobError(
            f"{len(found)} jobs have the name {text!r} or an id that begins with it: "
            f"{_some(row.id for row in found)}. Use an id, or more characters of it."
        )
    return found[0].number if found else None


def _is_there() -> ColumnElement[bool]:
    """The job is not marked for deletion."""
    return jobs.c.state != ABANDONED


def _suggest(connection: Connection, text: str) -> str:
    latest = select(jobs.c.id).where(is_visible())
    latest = latest.order_by(jobs.c.number.desc()).limit(RECENT_JOBS)
    ids = list(connection.scalars(latest))
    if not ids:
        return "There are no jobs yet; `resnextq submit` makes one."
    near = difflib.get_close_matches(text, ids, SHOWN_JOBS, cutoff=0.7)
    if near:
        return f"Did you mean {_some(near)}? `resnextq list` shows the latest."
    beginning = "The latest is" if len(ids) == 1 else "The latest are"
    return f"{beginning} {_some(ids)}; `resnextq list` shows more."


def _some(ids: Iterable[str]) -> str:
    ids = list(ids)
    return ", ".join(ids[:SHOWN_JOBS]) + (", …" if len(ids) > SHOWN_JOBS else "")
