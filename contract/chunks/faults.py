"""Faults of this program that runs of chunks meet, while they meet them.

A run notes its fault in the chunk's row, and the next run that meets none clears it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection

from sqlalchemy import Connection, func, select

from contract.database.tables import chunks, jobs


def faults_of(connection: Connection, job_numbers: Collection[int]) -> dict[int, Counter[str]]:
    """Chunks by fault, for each of these jobs that has one."""
    rows = connection.execute(
        select(chunks.c.job_number, chunks.c.fault, func.count().label("chunks"))
        .where(chunks.c.fault.is_not(None), chunks.c.job_number.in_(job_numbers))
        .group_by(chunks.c.job_number, chunks.c.fault)
    )
    found: dict[int, Counter[str]] = defaultdict(Counter)
    for row in rows:
        found[row.job_number][row.fault] = row.chunks
    return dict(found)


def faults_of_running_jobs(connection: Connection) -> Counter[str]:
    """Chunks by fault, of all jobs that are running."""
    rows = connection.execute(
        select(chunks.c.fault, func.count().label("chunks"))
        .select_from(chunks.join(jobs, jobs.c.number == chunks.c.job_number))
        .where(chunks.c.fault.is_not(None), jobs.c.state == "running")
        .group_by(chunks.c.fault)
    )
    return Counter({row.fault: row.chunks for row in rows})
