"""`resnextq pause`, `resume` and `edit`: change a job that goes on.

A paused job stays `running`, but the dispatcher publishes none of its chunks. Workers finish the
chunks that they already have. The job's time limit runs on: `expires` does not move.

    from contract.database.engine import connect_database
    from contract.settings import load_settings
    from producer.jobs.change import pause

    engine = connect_database(load_settings())
    job = pause(engine, "0b5f0c6a9d3e4f21")
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from contract.database.clock import db_now
from contract.database.tables import job_tags, jobs
from contract.errors import JobStateError
from producer.jobs.job import Job, find_job, lock_state, read_job
from producer.submit.options import check_priority, check_tag_key, check_tags, check_title


def pause(engine: Engine, job: str) -> Job:
    """Stops publishing chunks of the job. A paused job stays paused.

    Raises:
        UnknownJobError: no job matches, or more than one.
        JobStateError: the job has ended.
    """
    return _change_live(engine, job, paused_at=func.coalesce(jobs.c.paused_at, db_now()))


def resume(engine: Engine, job: str) -> Job:
    """Resumes a paused job. Other jobs stay as they are.

    Raises:
        UnknownJobError: no job matches, or more than one.
        JobStateError: the job has ended.
    """
    return _change_live(engine, job, paused_at=None)


def edit(  # noqa: PLR0913  (all but two are by keyword)
    engine: Engine,
    job: str,
    *,
    name: str | None = None,
    priority: int | None = None,
    tags: Mapping[str, str] | None = None,
    untag: Collection[str] = (),
) -> Job:
    """Changes the given values of a job in any state. The priority applies from the next chunk on.

    Args:
        engine: the database.
        job: its id, or the first characters of it.
        name: for people; an empty text removes the name.
        priority: -1000 to 1000.
        tags: to add or change; other tags stay.
        untag: keys of tags to remove.

    Raises:
        UnknownJobError: no job matches, or more than one.
        UsageError: a value is invalid.
    """
    values: dict[str, Any] = {}
    if name is not None:
        check_title("name", name or None)
        values["name"] = name or None
    if priority is not None:
        check_priority(priority)
        values["priority"] = priority
    with engine.begin() as connection:
        number = find_job(connection, job).number
        lock_state(connection, number)
        if values:
            connection.execute(update(jobs).where(jobs.c.number == number).values(**values))
        _change_tags(connection, number, tags or {}, untag)
        return read_job(connection, number)


def _change_live(engine: Engine, job: str, **values: Any) -> Job:  # noqa: ANN401  (columns)
    with engine.begin() as connection:
        found = find_job(connection, job)
        state = lock_state(connection, found.number)
        if state not in {"submitting", "running"}:
            raise JobStateError(
                f"Job {found.id} is already {state}. There is nothing to pause or resume."
            )
        connection.execute(update(jobs).where(jobs.c.number == found.number).values(**values))
        return read_job(connection, found.number)


def _change_tags(
    connection: Connection, number: int, tags: Mapping[str, str], untag: Collection[str]
) -> None:
    for key in untag:
        check_tag_key(key)
    going = {*untag, *tags}
    if going:
        of_job = job_tags.c.job_number == number
        connection.execute(delete(job_tags).where(of_job, job_tags.c.key.in_(going)))
    there = select(job_tags.c.key, job_tags.c.value).where(job_tags.c.job_number == number)
    check_tags({row.key: row.value for row in connection.execute(there)} | dict(tags))
    if tags:
        rows = [{"job_number": number, "key": key, "value": tags[key]} for key in sorted(tags)]
        connection.execute(insert(job_tags), rows)
