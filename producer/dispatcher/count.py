"""Workers' tallies into the jobs' counts, and the end of a job.

Each stored chunk adds one small row to `tallies`, so that no two workers wait for the same
job's row; the dispatcher takes them out and adds them up, in one transaction. Two dispatchers
at once fold no tally twice: a row that is deleted is deleted once. The tally of the last
image completes a running job; one that was cancelled or has expired is finished by it. The counts
of a job's classes grow in the same transaction, and who asked for it is told of its end.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from math import exp
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, select, update

from contract.chunks.results import ClassKey, add_class_counts, take_tallies
from contract.database.clock import db_now
from contract.database.tables import jobs
from producer.notify.outbox import note_ends

log = logging.getLogger(__name__)

TALLIES_A_TICK: Final = 10_000
# Of the moving average of images/s: long enough to be read, short enough to follow.
RATE_TIME_S: Final = 10.0


@dataclass
class Sum:
    """What the tallies of one job come to."""

    classified: int = 0
    failed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    classes: dict[str, Counter[str]] = field(default_factory=dict)
    """Images by model number and class id."""

    def class_counts(self, job_number: int) -> dict[ClassKey, int]:
        return {
            (job_number, int(model), int(class_id)): images
            for model, images_of in self.classes.items()
            for class_id, images in images_of.items()
        }


def fold(engine: Engine) -> int:
    """Folds what there is; returns the number of tallies."""
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
            classes |= new.class_counts(job.number)
        add_class_counts(connection, classes)
        note_ends(connection, ended)
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
    return dict(sums), len(taken)


def _jobs_to_change(connection: Connection, sums: dict[int, Sum]) -> list[Row[Any]]:
    """Those with tallies, and those whose rate falls since there are none; locked, in order.

    Not so that a worker's new rows, which refer to the job, would wait for us or we for them.
    """
    falling = (jobs.c.state == "running") & (jobs.c.images_per_s > 0)
    return list(
        connection.execute(
            select(jobs)
            .where(jobs.c.number.in_(list(sums)) | falling)
            .order_by(jobs.c.number)
            .with_for_update(key_share=True)
        )
    )


def _change(connection: Connection, job: Row[Any], new: Sum, now: datetime) -> bool:
    """Whether the job is done with it."""
    running = job.state == "running"
    state = "completed" if running else job.state
    classified, failed = job.classified + new.classified, job.failed + new.failed
    values: dict[str, Any] = {
        "classified": classified,
        "failed": failed,
        "errors": _add(job.errors, new.errors),
        # Nobody is told how fast the rest of a job is marked as cancelled.
        "images_per_s": _rate(job, new.classified + new.failed, now) if running else 0.0,
        "folded_at": now,
    }
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
        )
    return done


def _add(errors: dict[str, int], more: Counter[str]) -> dict[str, int]:
    """A retry takes back what may not be folded yet, so that a count is below zero meanwhile."""
    total = Counter(errors)
    total.update(more)
    return {code: images for code, images in total.items() if images}


def _rate(job: Row[Any], images: int, now: datetime) -> float:
    """Images/s as a moving average whose weights fall by e in RATE_TIME_S."""
    seconds = max((now - (job.folded_at or job.created_at)).total_seconds(), 1e-3)
    kept = exp(-seconds / RATE_TIME_S)
    now_s = images / seconds
    rate: float = now_s if job.folded_at is None else job.images_per_s * kept + now_s * (1 - kept)
    return rate if rate >= _STANDSTILL else 0.0


# A tenth of an image an hour: no rate to tell anybody.
_STANDSTILL: Final = 0.1 / 3600
