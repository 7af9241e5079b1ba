"""Samples a job's images evenly: charts of a million images are drawn from the sample.

It looks up some thousand rows by key, so a large job takes no longer than a small one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, select

from contract.database.tables import results
from producer.jobs.job import Job

MOST: Final = 4_000


@dataclass(frozen=True)
class Settled:
    """A finished image."""

    settled_at: datetime
    failed: bool
    score: float | None
    """Of the top class."""


@dataclass(frozen=True)
class Sample:
    images: list[Settled]
    step: int
    """Each sampled image stands for this many."""


def read_sample(connection: Connection, job: Job, most: int = MOST) -> Sample:
    """The finished images at every `step`-th position, `most` at most."""
    step = max(1, -(-job.total // most))
    statement = select(results.c.settled_at, results.c.error_code, results.c.score_1).where(
        results.c.job_number == job.number
    )
    if step > 1:
        statement = statement.where(results.c.position.in_(range(0, job.total, step)))
    rows = connection.execute(statement)
    return Sample(
        [Settled(row.settled_at, row.error_code is not None, row.score_1) for row in rows], step
    )
