"""`resnextq compare`: compares two jobs' answers image by image.

If both jobs were submitted with the same list (their digests tell), images are paired by position.
Otherwise they are paired by the submitter's ids, or by URI. If several images have the same id or
URI, the first is paired with the first, the second with the second, and so on. SQL pairs and counts
them, so memory grows only with the number of different pairs of classes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, Select, and_, exists, func, select

from contract.database.engine import reading
from contract.database.tables import jobs, labels, results
from contract.errors import UsageError
from producer.jobs.job import Job

# Positions that one statement counts, so that no statement takes long.
POSITIONS_AT_ONCE: Final = 100_000
_ANSWER: Final = ("error_code", "model_number", "class_1")


@dataclass(frozen=True)
class Change:
    """Images of one class in the first job that have another class in the second."""

    before: str
    after: str
    images: int


@dataclass(frozen=True)
class OfClass:
    """Images of one class in the first job that both jobs have classified."""

    label: str
    images: int
    agree: int

    @property
    def agreement(self) -> float:
        return self.agree / self.images


@dataclass(frozen=True, kw_only=True)
class Comparison:
    first: Job
    second: Job
    paired_by: str
    """position, ref or uri"""
    images: int
    """Finished in both jobs."""
    only_first: int
    """Finished in the first job, without a partner in the second."""
    only_second: int
    agree: int
    """Classified in both jobs, with the same top class."""
    changed: int
    failed_first: int
    """Failed in the first job, classified in the second."""
    failed_second: int
    failed_both: int
    classes: Sequence[OfClass]
    """Classes of the first job, the most frequent first."""
    changes: Sequence[Change]
    """The most frequent first."""

    @property
    def agreement(self) -> float | None:
        """Share with the same top class among images that both jobs classified. None: no images."""
        both = self.agree + self.changed
        return self.agree / both if both else None


def compare(engine: Engine, first: Job, second: Job) -> Comparison:
    """Pairs the two jobs' images and counts their answers.

    Raises:
        UsageError: both are the same job.
    """
    if first.number == second.number:
        raise UsageError(f"Job {first.id} is given twice. Give two jobs to compare.")
    with reading(engine) as connection:
        paired_by = _paired_by(connection, first, second)
        names = _Labels(connection)
        settled = [_settled(connection, job) for job in (first, second)]
    counts = Counter[tuple[str | None, str | None]]()
    for statement in _statements(first, second, paired_by):
        with reading(engine) as connection:
            for row in connection.execute(statement):
                counts[names.of(row[:3]), names.of(row[3:6])] += row.images
    return _compared(first, second, paired_by, settled, counts)


def as_json(found: Comparison, most: int) -> dict[str, Any]:
    """The object that `compare --json` prints."""
    agreement = found.agreement
    return {
        "first": found.first.id,
        "second": found.second.id,
        "paired_by": found.paired_by,
        "images": found.images,
        "only_first": found.only_first,
        "only_second": found.only_second,
        "agree": found.agree,
        "changed": found.changed,
        "agreement": None if agreement is None else round(agreement, 6),
        "failed_first": found.failed_first,
        "failed_second": found.failed_second,
        "failed_both": found.failed_both,
        "classes": [
            {
                "label": one.label,
                "images": one.images,
                "agree": one.agree,
                "agreement": round(one.agreement, 6),
            }
            for one in found.classes[:most]
        ],
        "changes": [
            {"from": one.before, "to": one.after, "images": one.images}
            for one in found.changes[:most]
        ],
    }


class _Labels:
    """Labels by model and class, since the jobs may use two models."""

    def __init__(self, connection: Connection) -> None:
        self._known: dict[tuple[int, int], str] = {
            (row.model_number, row.class_id): row.label
            for row in connection.execute(select(labels))
        }

    def of(self, answer: Sequence[Any]) -> str | None:
        """The label of a class. None: the image failed."""
        error_code, model_number, class_id = answer
        if error_code is not None or class_id is None:
            return None
        return self._known.get((model_number, class_id), f"class {class_id}")


def _paired_by(connection: Connection, first: Job, second: Job) -> str:
    mine = select(jobs.c.images_digest).where(jobs.c.number.in_((first.number, second.number)))
    digests = set(connection.scalars(mine))
    if len(digests) == 1 and None not in digests:
        return "position"
    have_refs = all(
        connection.scalar(
            select(exists().where(results.c.job_number == job.number, results.c.ref.is_not(None)))
        )
        for job in (first, second)
    )
    return "ref" if have_refs else "uri"


def _settled(connection: Connection, job: Job) -> int:
    mine = select(func.count()).where(results.c.job_number == job.number)
    return connection.scalar(mine) or 0


def _statements(first: Job, second: Job, paired_by: str) -> Iterator[Select[Any]]:
    """Statements that count pairs of answers."""
    if paired_by != "position":
        one, other = (_numbered(job, paired_by) for job in (first, second))
        same = and_(one.c.key == other.c.key, one.c.n == other.c.n)
        yield _counting(one, other, same)
        return
    for start in range(0, max(first.total, second.total), POSITIONS_AT_ONCE):
        one, other = (_window(job, start) for job in (first, second))
        yield _counting(one, other, one.c.position == other.c.position)


def _window(job: Job, start: int) -> Any:  # noqa: ANN401  (a subquery)
    return (
        select(results.c.position, *(results.c[name] for name in _ANSWER))
        .where(
            results.c.job_number == job.number,
            results.c.position >= start,
            results.c.position < start + POSITIONS_AT_ONCE,
        )
        .subquery()
    )


def _numbered(job: Job, key: str) -> Any:  # noqa: ANN401  (a subquery)
    """Each image with its id or URI, numbered among the images with the same one."""
    column = results.c[key]
    nth = func.row_number().over(partition_by=column, order_by=results.c.position)
    return (
        select(column.label("key"), nth.label("n"), *(results.c[name] for name in _ANSWER))
        .where(results.c.job_number == job.number, column.is_not(None))
        .subquery()
    )


def _counting(one: Any, other: Any, same: Any) -> Select[Any]:  # noqa: ANN401  (subqueries)
    answers = [side.c[name] for side in (one, other) for name in _ANSWER]
    return (
        select(*answers, func.count().label("images"))
        .select_from(one.join(other, same))
        .group_by(*answers)
    )


def _compared(
    first: Job,
    second: Job,
    paired_by: str,
    settled: Sequence[int],
    counts: Counter[tuple[str | None, str | None]],
) -> Comparison:
    classes: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    changes = []
    failed = Counter[tuple[bool, bool]]()
    for (before, after), images in counts.items():
        if before is None or after is None:
            failed[before is None, after is None] += images
            continue
        classes[before][0] += images
        if before == after:
            classes[before][1] += images
        else:
            changes.append(Change(before, after, images))
    agree = sum(same for _, same in classes.values())
    total = counts.total()
    return Comparison(
        first=first,
        second=second,
        paired_by=paired_by,
        images=total,
        only_first=settled[0] - total,
        only_second=settled[1] - total,
        agree=agree,
        changed=sum(change.images for change in changes),
        failed_first=failed[True, False],
        failed_second=failed[False, True],
        failed_both=failed[True, True],
        classes=sorted(
            (OfClass(label, images, same) for label, (images, same) in classes.items()),
            key=lambda one: (-one.images, one.label),
        ),
        changes=sorted(changes, key=lambda one: (-one.images, one.before, one.after)),
    )
