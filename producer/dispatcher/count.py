"""Adds workers' tallies to the jobs' counts, and ends jobs.

Each stored chunk adds one small row to `tallies`, so that no two workers wait for the same job's
row. The dispatcher deletes these rows and adds them up in one transaction. Two dispatchers at once
count no tally twice, because a row is deleted only once. The tally of its last image completes a
running job and finishes a cancelled or expired one. The same transaction updates the job's class
counts, and records the notification of the job's end.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from math import exp
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, select, update

from contract.chunks.remove import ABANDONED
from contract.chunks.results import ClassKey, add_class_counts, take_tallies
from contract.database.clock import db_now
from contract.database.tables import jobs
from contract.stages import Stages, add_stages
from producer.notify.outbox import note_ends

log = logging.getLogger(__name__)

TALLIES_A_TICK: Final = 10_000
# Of the moving average of images/s: long enough to be readable, short enough to follow changes.
RATE_TIME_S: Final = 10.0


@dataclass
class Sum:
    """The sum of one job's tallies."""

    classified: int = 0
    failed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    classes: dict[str, Counter[str]] = field(default_factory=dict)
    """Images by model number and class id."""
    stages: Stages = field(default_factory=dict)

    def class_counts(self, job_number: int) -> dict[ClassKey, int]:
        return {
            (job_number, int(model), int(class_id)): images
            for model, images_of in self.classes.items()
            for class_id, images in images_of.items()
        }


def fold(engine: Engine, *, when_stored: Callable[[set[str]], object] = lambda _: None) -> int:
    """Adds up the tallies and returns their number.

    `when_stored` gets the queues of running jobs with new results.
    """
    stored = set[str]()
    with engine.begin() as connection:
        now = connection.scalar(select(db_now()))
        assert now is not None  # noqa: S101  (a clock always answers)
        sums, count = _take(connection)
        classes = dict[ClassKey, int]()
        ended = list[int]()
        for job in _jobs_to_change(connection, sums):
            new = sums.get(job.number, Sum())
            if _change(connection, job, new, now):
                ended.append(job.number)
            if job.state == "running" and new.classified + new.failed > 0:
                stored.add(job.queue)
            classes |= new.class_counts(job.number)
        add_class_counts(connection, classes)
        note_ends(connection, ended)
    when_stored(stored)
    return count


def _take(connection: Connection) -> tuple[dict[int, Sum], int]:
    taken = take_tallies(connection, TALLIES_A_TICK)
    sums: dict[int, Sum] = defaultdict(Sum)
    for tally in taken:
        total = sums[tally.job_number]
        total.classified += tally.classified
        total.failed += tally.failed
        total.errors.update(tally.errors)
        for model, images_of in (tally.classes or {}).items():
            total.classes.setdefault(model, Counter()).update(images_of)
        add_stages(total.stages, tally.stages)
    return dict(sums), len(taken)


def _jobs_to_change(connection: Connection, sums: dict[int, Sum]) -> list[Row[Any]]:
    """Jobs with tallies, and jobs whose rate falls because they have none; locked, in order.

    The lock does not conflict with a worker's new rows that refer to the job. A job that is being
    deleted needs no counts. Its row may be locked by a removal, which waits for the tallies taken
    here.
    """
    falling = (jobs.c.state == "running") & (jobs.c.images_per_s > 0)
    return list(
        connection.execute(
            select(jobs)
            .where(jobs.c.number.in_(list(sums)) | falling, jobs.c.state != ABANDONED)
            .order_by(jobs.c.number)
            .with_for_update(key_share=True)
        )
    )


def _change(connection: Connection, job: Row[Any], new: Sum, now: datetime) -> bool:
    """Updates the job's counts. Returns whether the job is finished now."""
    running = job.state == "running"
    state = "completed" if running else job.state
    classified, failed = job.classified + new.classified, job.failed + new.failed
    values: dict[str, Any] = {
        "classified": classified,
        "failed": failed,
        "errors": _add(job.errors, new.errors),
        # The speed of marking the rest of a job as cancelled is of no interest.
        "images_per_s": _rate(job, new.classified + new.failed, now) if running else 0.0,
        "folded_at": now,
    }
    if new.stages:
        add_stages(new.stages, job.stages)
        values["stages"] = new.stages
    done = job.finished_at is None and classified + failed == job.total
    if done:
        values |= {"state": state, "finished_at": now}
    connection.execute(update(jobs).where(jobs.c.number == job.number).values(**values))
    if done:
        seconds = (now - job.created_at).total_seconds()
        log.info(
            "Job %s%s is %s: %d classified, %d failed in %.1f s, %.1f images/s",
            job.id,
            f" ({job.name})" if job.name else "",
            state,
            classified,
            failed,
            seconds,
            job.total / max(seconds, 1e-3),
            extra={"job": job.id},
        )
    return done


def _add(errors: dict[str, int], more: Counter[str]) -> dict[str, int]:
    """The sum of both. A count can be below zero while a retried image is still in a tally."""
    total = Counter(errors)
    total.update(more)
    return {code: images for code, images in total.items() if images}


def _rate(job: Row[Any], images: int, now: datetime) -> float:
    """Images per second as a moving average. Weights fall by a factor of e in RATE_TIME_S."""
    seconds = max((now - (job.folded_at or job.created_at)).total_seconds(), 1e-3)
    kept = exp(-seconds / RATE_TIME_S)
    now_s = images / seconds
    rate: float = now_s if job.folded_at is None else job.images_per_s * kept + now_s * (1 - kept)
    return rate if rate >= _STANDSTILL else 0.0


# A tenth of an image per hour: below this the rate counts as zero.
_STANDSTILL: Final = 0.1 / 3600
