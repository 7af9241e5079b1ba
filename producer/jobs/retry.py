"""`resnextq retry`: runs failed images again and replaces their rows.

Each transaction handles some chunks. It deletes the rows of their failed images, lowers the job's
counts, and sets the chunks from `done` back to `pending` with only these images, as if they had
never run. A retry that is interrupted between two transactions has restarted a part of the images.
Repeated, it continues with the others, because restarted images have no row any more.

Chunks that are not `done` are left alone: a worker runs them or will run them. Images that failed
in them can be retried once the chunk is done. So two workers never run the same image.

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
from producer.jobs.job import Job, find_job, lock_state, read_job

# At most some thousands of rows, few of which have failed.
CHUNKS_A_TRANSACTION: Final = 64


@dataclass(frozen=True, kw_only=True)
class Retried:
    """The result of a retry."""

    job: str
    """The job's id."""
    images: int
    """Images that run again."""
    left: int
    """Failed images with these codes that do not run again: their chunks still run, or they failed
    again meanwhile.
    """


def retry(engine: Engine, job: str, codes: Collection[str] = ()) -> Retried:
    """Runs a job's failed images again, either all or those with one of these error codes.

    An ended job continues. A time limit that has passed is removed.

    Raises:
        UnknownJobError: no job matches, or more than one.
        UsageError: an error code does not exist.
        JobStateError: the job is still being submitted; or it was cancelled or has expired, and the
            dispatcher is still marking its images; or one of these happened during the retry.
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
    """The codes to retry.

    Raises:
        UsageError: an error code does not exist.
    """
    for code in codes:
        if not is_known(code):
            near = difflib.get_close_matches(code, [*ERROR_CODES, "http_404"], 1, cutoff=0.5)
            meant = f"Did you mean {near[0]}? " if near else ""
            raise UsageError(
                f"There is no error code {code!r}. {meant}`resnextq status JOB` shows the codes "
                "of a job."
            )


def _check_state(job: Job | Row[Any], *, again: int) -> None:
    """Refuses a job that cannot be retried now. `again` images have been restarted already."""
    if job.state == "submitting":
        raise JobStateError(
            f"Job {job.id} is still being submitted. Retry its failed images when it is running."
        )
    if job.state in ("running", "completed"):
        return
    if again:
        raise JobStateError(f"Job {job.id} is {job.state} by now. {again:,} images run again.")
    if job.finished_at is None:
        raise JobStateError(
            f"Job {job.id} is {job.state}, and the dispatcher is still marking its remaining "
            f"images. Try again when `resnextq status {job.id}` says that it is finished."
        )


def _chunks_with_failures(
    engine: Engine, job_number: int, codes: Collection[str]
) -> Iterator[Sequence[int]]:
    """Numbers of done chunks with failed images, some per transaction. Yields each chunk only once,
    so that an image that fails again is not retried for ever.
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
    """Restarts the failed images of these chunks and returns their number. `again` images have been
    restarted before.
    """
    # The dispatcher also locks a job first when it ends it. The later of the two sees the
    # change.
    lock_state(connection, job_number)
    wanted = select(jobs, db_now().label("now")).where(jobs.c.number == job_number)
    job = connection.execute(wanted).one()
    _check_state(job, again=again)
    failed = retry_chunks(connection, job_number, numbers, codes)
    if failed:
        _set_running(connection, job, failed)
    return failed.total()


def _set_running(connection: Connection, job: Row[Any], failed: Counter[str]) -> None:
    """Lowers the job's counts in place, not by a tally. Two dispatchers at once may add up later
    tallies first, and would take an incomplete job for complete. While some counts are still in
    tallies, a count here may be below zero; the sum of both is right.
    """
    errors = Counter[str](job.errors)
    errors.subtract(failed)
    idle_s = job.idle_s
    if job.finished_at is not None:
        idle_s = (idle_s or 0.0) + (job.now - job.finished_at).total_seconds()
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
            idle_s=idle_s,
        )
    )
