"""`resnextq cancel`: one UPDATE stops a job.

After its commit, workers claim no more chunks of the job, even if their messages are still in
Redis. Workers finish and store the chunks that they run. The dispatcher (`producer.dispatcher.end`)
marks the other images as cancelled.

    from contract.database.engine import connect_database
    from contract.settings import load_settings
    from producer.jobs.cancel import cancel

    engine = connect_database(load_settings())
    job = cancel(engine, "0b5f0c6a9d3e4f21")
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, func, select, update

from contract.database.clock import db_now
from contract.database.tables import chunks, jobs
from contract.errors import JobStateError
from producer.jobs.job import Job, find_job, lock_state, read_job
from producer.notify.outbox import note_ends


def cancel(engine: Engine, job: str) -> Job:
    """Cancels the job with this id (its first characters are enough) and returns it.

    A job that is already cancelled stays as it is.

    Raises:
        UnknownJobError: no job matches, or more than one.
        JobStateError: the job has ended in another way.
    """
    with engine.begin() as connection:
        found = find_job(connection, job)
        state = lock_state(connection, found.number)
        if state == "submitting":
            _stop_draft(connection, found.number)
        elif state == "running":
            _set_cancelled(connection, found.number)
        elif state != "cancelled":
            raise JobStateError(f"Job {found.id} is {state}: there is nothing left to cancel.")
        return read_job(connection, found.number)


def _stop_draft(connection: Connection, number: int) -> None:
    """Cancels a job that is still being submitted, with the images submitted so far. Frees its key,
    so that submitting again with the same key creates a new, complete job.
    """
    # Waits for the chunks that are being inserted. No more can follow.
    connection.execute(select(jobs.c.number).where(jobs.c.number == number).with_for_update())
    images = connection.scalar(
        select(func.coalesce(func.sum(chunks.c.images), 0)).where(chunks.c.job_number == number)
    )
    _set_cancelled(
        connection,
        number,
        key=None,
        total=images,
        # A job without images is finished now: the dispatcher has nothing to mark.
        finished_at=None if images else db_now(),
    )
    if not images:
        note_ends(connection, [number])


def _set_cancelled(connection: Connection, number: int, **values: Any) -> None:  # noqa: ANN401  (columns)
    statement = update(jobs).where(jobs.c.number == number)
    connection.execute(statement.values(state="cancelled", images_per_s=0.0, **values))
