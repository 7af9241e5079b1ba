"""Errors in this program that runs of chunks meet at the moment.

A run records its error in the chunk's column `fault`. The next run without an error clears it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, select

from contract.database.tables import chunks, jobs


def faults_of(connection: Connection, job_numbers: Collection[int]) -> dict[int, Counter[str]]:
    """The number of chunks by fault, for each of these jobs that has a fault."""
    rows = connection.execute(_faults_of(), {"numbers": list(job_numbers)})
    found: dict[int, Counter[str]] = defaultdict(Counter)
    for row in rows:
        found[row.job_number][row.fault] = row.chunks
    return dict(found)


@cache
def _faults_of() -> Select[Any]:
    """Builds the statement once, because building takes longer than executing."""
    numbers = bindparam("numbers", expanding=True, type_=jobs.c.number.type)
    return (
        select(chunks.c.job_number, chunks.c.fault, func.count().label("chunks"))
        .where(chunks.c.fault.is_not(None), chunks.c.job_number.in_(numbers))
        .group_by(chunks.c.job_number, chunks.c.fault)
    )


def faults_of_running_jobs(connection: Connection) -> Counter[str]:
    """The number of chunks by fault, for all running jobs."""
    rows = connection.execute(
        select(chunks.c.fault, func.count().label("chunks"))
        .select_from(chunks.join(jobs, jobs.c.number == chunks.c.job_number))
        .where(chunks.c.fault.is_not(None), jobs.c.state == "running")
        .group_by(chunks.c.fault)
    )
    return Counter({row.fault: row.chunks for row in rows})
