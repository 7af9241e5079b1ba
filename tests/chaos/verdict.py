"""Compares what SQL says about every submitted image with what is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, func, select

from contract.database.engine import reading
from contract.database.tables import chunks, jobs, results
from tests.chaos.job import Job
from tests.chaos.pictures import answer_of

MOST_FINDINGS: Final = 8


@dataclass(frozen=True)
class Verdict:
    images: int = 0
    lost: int = 0
    """Images without a row."""
    doubled: int = 0
    """Rows without an image, images that a job counts twice, and jobs that were not submitted."""
    wrong: int = 0
    """Rows with a wrong answer, URI or id; wrong counts and states; chunks that are not done."""

    findings: tuple[str, ...] = ()
    """Descriptions of some faults."""

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(
            self.images + other.images,
            self.lost + other.lost,
            self.doubled + other.doubled,
            self.wrong + other.wrong,
            (*self.findings, *other.findings)[:MOST_FINDINGS],
        )

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.doubled or self.wrong)


def judge(engine: Engine, submitted: Sequence[Job], *, before: int = 0) -> Verdict:
    """Judges the jobs of one trial. The database had `before` other jobs when the trial began."""
    with reading(engine) as connection:
        there = connection.scalar(select(func.count()).select_from(jobs)) or 0
        total = Verdict(doubled=max(0, there - before - len(submitted)))
        for job in submitted:
            total += _judge(connection, job)
    return total


def _judge(connection: Connection, job: Job) -> Verdict:
    told = connection.execute(select(jobs).where(jobs.c.id == job.id)).one_or_none()
    if told is None:
        return Verdict(
            images=len(job.images), lost=len(job.images), findings=(f"there is no job {job.id}",)
        )
    rows = connection.execute(select(results).where(results.c.job_number == told.number)).all()
    positions = {row.position for row in rows}
    expected = set(range(len(job.images)))
    counted = told.classified + told.failed
    wrong = [*_wrong_rows(job, rows), *_wrong_words(job, told, rows), *_left(connection, told)]
    return Verdict(
        images=len(job.images),
        lost=len(expected - positions),
        doubled=len(positions - expected) + max(0, counted - len(rows)),
        wrong=len(wrong),
        findings=tuple(f"job {job.id}: {finding}" for finding in wrong),
    )


def _wrong_rows(job: Job, rows: Iterable[Row[Any]]) -> Iterator[str]:
    for row in rows:
        answer = row.error_code if row.class_1 is None else row.class_1
        if row.position >= len(job.images) or (row.uri, row.ref) != job.images[row.position]:
            yield f"position {row.position} has the URI {row.uri} and the id {row.ref}"
        elif answer != answer_of(row.uri) and row.error_code not in job.also:
            yield f"{row.uri} has the answer {answer} {row.error_detail or ''}"


def _wrong_words(job: Job, told: Row[Any], rows: Sequence[Row[Any]]) -> Iterator[str]:
    """Yields where the job's own row contradicts its images."""
    errors = Counter(row.error_code for row in rows if row.error_code is not None)
    classified = len(rows) - errors.total()
    if told.state != job.state or told.finished_at is None:
        yield f"its state is {told.state}, its end {told.finished_at}, expected {job.state}"
    if told.total != len(job.images):
        yield f"its total is {told.total}, expected {len(job.images)}"
    if (told.classified, told.errors) != (classified, dict(errors)):
        yield (
            f"it counts {told.classified} classified and {told.errors}, "
            f"but its rows are {classified} and {dict(errors)}"
        )
    if told.failed != errors.total():
        yield f"it counts {told.failed} failed, but its rows are {errors.total()}"


def _left(connection: Connection, told: Row[Any]) -> Iterator[str]:
    of_job = (chunks.c.job_number == told.number) & (chunks.c.state != "done")
    for row in connection.execute(select(chunks).where(of_job)):
        yield f"chunk {row.chunk} is {row.state} in generation {row.generation}"
