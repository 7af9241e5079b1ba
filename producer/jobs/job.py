"""A job as people see it: read from SQL with counts that are exact at any moment.

Workers add tallies and the dispatcher folds them into the job. Both are read in one SQL
statement, thus in one snapshot, so that no image is missed or counted twice meanwhile.
Called by `status`, `list`, `results` and `submit`.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, Select, func, select

from contract.chunks.faults import faults_of
from contract.database.clock import db_now, iso
from contract.database.tables import job_tags, jobs, tallies, workers
from contract.errors import UnknownJobError
from producer.submit.draft import is_visible

# Shorter beginnings of ids are typing errors rather than abbreviations.
MIN_ID_CHARS: Final = 4
# Where to look for what a mistyped id may have meant, and how many to show.
RECENT_JOBS: Final = 1_000
SHOWN_JOBS: Final = 3
MOST_SHOWN_CHARS: Final = 64


@dataclass(frozen=True, kw_only=True)
class Job:
    """A row of `jobs` with the tallies that are not folded into it yet."""

    number: int
    id: str
    name: str | None
    owner: str
    key: str | None
    state: str
    paused_at: datetime | None
    """Since when none of its chunks is given out."""
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
    total: int
    """0 while the job is being submitted."""
    classified: int
    failed: int
    errors: dict[str, int]
    """Images by error code, the most frequent first."""
    recent_images_per_s: float
    """A moving average, as the dispatcher sees it."""
    faults: dict[str, int]
    """Chunks whose last run met a fault of this program, by fault."""

    @property
    def pending(self) -> int:
        return max(0, self.total - self.classified - self.failed)

    @property
    def is_live(self) -> bool:
        """Its images are still to be classified."""
        return self.state in ("submitting", "running")

    @property
    def is_finished(self) -> bool:
        """Of a job that was cancelled or has expired: what was left of it is settled as well."""
        return self.state == "completed" or (not self.is_live and self.finished_at is not None)

    @property
    def images_per_s(self) -> float:
        """Of a completed job the mean over its whole time."""
        if self.state != "completed" or self.finished_at is None:
            return self.recent_images_per_s
        seconds = (self.finished_at - self.created_at).total_seconds()
        return self.total / seconds if seconds > 0 else self.recent_images_per_s

    @property
    def eta_s(self) -> float | None:
        """Seconds until no image is pending; None where there is no rate to tell from."""
        rate = self.images_per_s
        return self.pending / rate if rate > 0 else None


def find_exactly(connection: Connection, job_id: str) -> Job:
    """The job with this id, for programs: nothing is guessed, and no other job is named.

    Raises:
        UnknownJobError: there is none.
    """
    number = None
    if job_id.isascii() and job_id.isalnum():
        number = connection.scalar(select(jobs.c.number).where(jobs.c.id == job_id, _is_there()))
    if number is None:
        raise UnknownJobError(f"No job has the id {job_id[:MOST_SHOWN_CHARS]!r}.")
    return read_job(connection, number)


def find_job(connection: Connection, text: str) -> Job:
    """The job with this id, or the only one whose id begins so.

    Raises:
        UnknownJobError: there is none, or more than one.
    """
    return read_job(connection, _find_number(connection, text))


def read_job(connection: Connection, number: int) -> Job:
    """
    Raises:
        UnknownJobError: it has been deleted.
    """
    found = _read(connection, select(jobs).where(jobs.c.number == number))
    if not found:
        raise UnknownJobError("The job has been deleted: its `submit` was broken off.")
    return found[0]


def lock_state(connection: Connection, number: int) -> str:
    """The job's state, which nobody else changes until this transaction ends.

    Workers may still insert rows that refer to the job: the lock leaves its key alone.
    """
    statement = select(jobs.c.state).where(jobs.c.number == number)
    state: str = connection.execute(statement.with_for_update(key_share=True)).scalar_one()
    return state


def read_jobs(connection: Connection, numbers: Collection[int]) -> list[Job]:
    """Those of them that there are, the newest first."""
    return _read(connection, select(jobs).where(jobs.c.number.in_(numbers)))


def read_chosen(connection: Connection, chosen: Select[Any]) -> list[Job]:
    """`chosen` selects rows of `jobs`."""
    return _read(connection, chosen)


def live_workers(connection: Connection, lease_s: float) -> Counter[str]:
    """How many workers serve each queue: those with a heartbeat within the lease."""
    statement = (
        select(workers.c.queue, func.count().label("live"))
        .where(workers.c.heartbeat_at >= db_now(-lease_s), ~workers.c.stopping)
        .group_by(workers.c.queue)
    )
    return Counter({row.queue: row.live for row in connection.execute(statement)})


def as_json(job: Job, served: Counter[str]) -> dict[str, Any]:
    """The shape that `--json` prints and the API sends; `served` is of `live_workers`."""
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
        "created_at": iso(job.created_at),
        "expires_at": None if job.expires_at is None else iso(job.expires_at),
        "finished_at": None if job.finished_at is None else iso(job.finished_at),
        "errors": job.errors,
        "faults": job.faults,
    }


def no_worker(job_queue: str, served: Counter[str]) -> str | None:
    """What to say where no worker that lives takes chunks of this queue."""
    if served[job_queue]:
        return None
    others = f" (workers serve {', '.join(sorted(served))})" if served else ""
    return f"no worker serves {job_queue} yet{others}: start one with `resnextq worker`"


def _read(connection: Connection, chosen: Select[Any]) -> list[Job]:
    """The chosen jobs, newest first. One statement, so one snapshot."""
    job = chosen.subquery()
    statement = (
        select(
            job,
            tallies.c.classified.label("more_classified"),
            tallies.c.failed.label("more_failed"),
            tallies.c.errors.label("more_errors"),
        )
        .select_from(job.outerjoin(tallies, tallies.c.job_number == job.c.number))
        .order_by(job.c.number.desc())
    )
    rows = connection.execute(statement).all()
    numbers = {row.number for row in rows}
    faults = faults_of(connection, numbers)
    tags = _tags_of(connection, numbers)
    return [
        _make_job(list(group), faults.get(number, Counter()), tags.get(number, {}))
        for number, group in groupby(rows, key=lambda row: row.number)
    ]


def _tags_of(connection: Connection, numbers: Collection[int]) -> dict[int, dict[str, str]]:
    statement = select(job_tags).where(job_tags.c.job_number.in_(numbers)).order_by(job_tags.c.key)
    tags: dict[int, dict[str, str]] = {}
    for row in connection.execute(statement):
        tags.setdefault(row.job_number, {})[row.key] = row.value
    return tags


def _make_job(rows: list[Row[Any]], faults: Counter[str], tags: dict[str, str]) -> Job:
    """`rows` are one job's, one for each of its tallies."""
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
        total=row.total,
        classified=row.classified + sum(tally.more_classified or 0 for tally in rows),
        failed=row.failed + sum(tally.more_failed or 0 for tally in rows),
        # What a retry has taken back may still be in a tally: together they are none.
        errors={code: images for code, images in errors.most_common() if images},
        recent_images_per_s=row.images_per_s,
        faults=dict(faults.most_common()),
    )


def _find_number(connection: Connection, text: str) -> int:
    found: list[Row[Any]] = []
    if text.isascii() and text.isalnum():
        exact = connection.scalar(select(jobs.c.number).where(jobs.c.id == text, _is_there()))
        if exact is not None:
            return int(exact)
    if text.isascii() and text.isalnum() and len(text) >= MIN_ID_CHARS:
        begins_so = jobs.c.id.startswith(text.lower(), autoescape=True) & _is_there()
        found = list(connection.execute(select(jobs.c.number, jobs.c.id).where(begins_so)))
    if len(found) == 1:
        return int(found[0].number)
    if found:
        raise UnknownJobError(
            f"{len(found)} jobs have an id that begins with {text!r}: "
            f"{_some(row.id for row in found)}. Write more of it."
        )
    raise UnknownJobError(f"No job has the id {text!r}. {_suggest(connection, text)}")


def _is_there() -> ColumnElement[bool]:
    """It is not about to be deleted."""
    return jobs.c.state != "abandoned"


def _suggest(connection: Connection, text: str) -> str:
    latest = select(jobs.c.id).where(is_visible())
    latest = latest.order_by(jobs.c.number.desc()).limit(RECENT_JOBS)
    ids = list(connection.scalars(latest))
    if not ids:
        return "There are no jobs yet; `resnextq submit` makes one."
    near = difflib.get_close_matches(text, ids, SHOWN_JOBS, cutoff=0.7)
    if near:
        return f"Did you mean {_some(near)}? `resnextq list` shows the latest."
    return f"The latest are {_some(ids)}; `resnextq list` shows more."


def _some(ids: Iterable[str]) -> str:
    ids = list(ids)
    return ", ".join(ids[:SHOWN_JOBS]) + (", …" if len(ids) > SHOWN_JOBS else "")
