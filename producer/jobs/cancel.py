"""`resnextq cancel`: one UPDATE stops a job.

Once it is committed no chunk of the job is claimed any more, wherever its message is. Workers
finish and store what they run; `producer.dispatcher.end`, in the dispatcher, settles the rest.

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
    """Cancels the job of this id, or of this beginning of one; returns it as it is then.

    A job that is cancelled already stays as it is.

    Raises:
        UnknownJobError: there is none, or more than one.
        JobStateError: it has ended otherwise.
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
    """Of a job that is being submitted, what is there counts as all of it. Its key is given up:
    submitted with it again, the job is a new one, and whole.
    """
    # The chunks that are just being inserted are waited for, and no more come.
    connection.execute(select(jobs.c.number).where(jobs.c.number == number).with_for_update())
    images = connection.scalar(
        select(func.coalesce(func.sum(chunks.c.images), 0)).where(chunks.c.job_number == number)
    )
    _set_cancelled(
        connection,
        number,
        key=None,
        total=images,
        # Without images there is nothing to settle that would finish it.
        finished_at=None if images else db_now(),
    )
    if not images:
        note_ends(connection, [number])


def _set_cancelled(connection: Connection, number: int, **values: Any) -> None:  # noqa: ANN401  (columns)
    statement = update(jobs).where(jobs.c.number == number)
    connection.execute(statement.values(state="cancelled", images_per_s=0.0, **values))
