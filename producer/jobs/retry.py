"""`resnextq retry`: failed images are run again, and their rows replaced.

Some chunks at a time, each time in one transaction: the rows of their failed images go, the
job's counts fall by as many, and the chunks go from `done` back to `pending` with just these
images, as if they had never run. Broken off between two transactions it has run again a part
of them; repeated, it goes on with the rest, since what waits has no row any more.

A chunk that is not `done` keeps its own life: a worker runs it, or will, and what has failed
in it for good can be retried once it is done. So no image is run by two at once.

    from contract.database.engine import connect_database
    from contract.settings import load_settings
    from producer.jobs.retry import retry

    engine = connect_database(load_settings())
    images = retry(engine, "0b5f0c6a9d3e4f21", ["timeout", "connect"]).images
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    Connection,
    Engine,
    Row,
    case,
    null,
    select,
    update,
)

from contract.chunks.retry import done_with_failures
from contract.chunks.retry import retry as retry_chunks
from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import jobs
from contract.errors import JobStateError, UsageError
from contract.failure import ERROR_CODES, is_known
from producer.jobs.job import Job, find_job, read_job

# Some thousands of rows at most, of which few have failed.
CHUNKS_A_TRANSACTION: Final = 64


@dataclass(frozen=True, kw_only=True)
class Retried:
    """What has become of a retry."""

    job: str
    """The job's id."""
    images: int
    """That are run again."""
    left: int
    """Failed ones of the same codes: in chunks that still run, or failed again meanwhile."""


def retry(engine: Engine, job: str, codes: Collection[str] = ()) -> Retried:
    """Runs failed images of a job again: those with one of these error codes, or all.

    The job goes on where it had ended. Its time is up no more, if it was.

    Raises:
        UnknownJobError: no job has this id, or more than one begins with it.
        UsageError: there is no such error code.
        JobStateError: it is still being submitted, or what is left of it is still being settled;
            or it was cancelled, or has expired, while this went on.
    """
    check_codes(codes)
    with reading(engine) as connection:
        found = find_job(connection, job)
    _check_state(found, again=0)
    images = 0
    for numbers in _chunks_with_failures(engine, found.number, codes):
        with engine.begin() as connection:
            images += _put_back(connection, found.number, numbers, codes, again=images)
    with reading(engine) as connection:
        now = read_job(connection, found.number)
    left = sum(n for code, n in now.errors.items() if not codes or code in codes)
    return Retried(job=found.id, images=images, left=left)


def check_codes(codes: Collection[str]) -> None:
    """
    Raises:
        UsageError: there is no such error code.
    """
    for code in codes:
        if not is_known(code):
            near = difflib.get_close_matches(code, [*ERROR_CODES, "http_404"], 1, cutoff=0.5)
            meant = f"Did you mean {near[0]}? " if near else ""
            raise UsageError(
                f"There is no error code {code!r}. {meant}`resnextq status JOB` shows those of a "
                "job."
            )


def _check_state(job: Job | Row[Any], *, again: int) -> None:
    """`again` images are run again already."""
    if job.state == "submitting":
        raise JobStateError(f"Job {job.id} is still being submitted: none of it has failed yet.")
    if job.state in ("running", "completed"):
        return
    if again:
        raise JobStateError(f"Job {job.id} is {job.state} by now; {again:,} images were run again.")
    if job.finished_at is None:
        raise JobStateError(
            f"Job {job.id} is {job.state}, and what was left of it is still being settled by the "
            f"dispatcher. Try again when `resnextq status {job.id}` says that it is finished."
        )


def _chunks_with_failures(
    engine: Engine, job_number: int, codes: Collection[str]
) -> Iterator[Sequence[int]]:
    """Numbers of done chunks in which an image has failed, some at a time, each once: what
    fails again meanwhile is not retried for ever.
    """
    after = -1
    while True:
        with reading(engine) as connection:
            numbers = done_with_failures(
                connection, job_number, codes, after=after, most=CHUNKS_A_TRANSACTION
            )
        if not numbers:
            return
        yield numbers
        after = numbers[-1]


def _put_back(
    connection: Connection,
    job_number: int,
    numbers: Sequence[int],
    codes: Collection[str],
    *,
    again: int,
) -> int:
    """How many images of these chunks are run again; `again` are so already."""
    # First, as the dispatcher's settling does: of the two, the later one finds it changed.
    job = connection.execute(
        select(jobs).where(jobs.c.number == job_number).with_for_update(key_share=True)
    ).one()
    _check_state(job, again=again)
    failed = retry_chunks(connection, job_number, numbers, codes)
    if failed:
        _set_running(connection, job, failed)
    return failed.total()


def _set_running(connection: Connection, job: Row[Any], failed: Counter[str]) -> None:
    """The counts fall at once, and not by a tally: two dispatchers at once may fold later ones
    first, and would take a job for complete that is not. What is still in a tally makes a
    count here fall below zero, and the sum of both is right.
    """
    errors = Counter[str](job.errors)
    errors.subtract(failed)
    in_time = case((jobs.c.expires_at > db_now(), jobs.c.expires_at), else_=null())
    connection.execute(
        update(jobs)
        .where(jobs.c.number == job.number)
        .values(
            state="running",
            failed=job.failed - failed.total(),
            errors={code: images for code, images in errors.items() if images},
            expires_at=in_time,
            finished_at=None,
        )
    )
