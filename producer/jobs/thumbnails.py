"""Thumbnails of a job: which images have one, their answers, and the JPEGs.

Workers make them (see worker/thumbnail). The answers come from `results`, so they are right after a
retry, too. The API, the pages and the report read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, select, tuple_

from contract.database.tables import TOP, jobs, labels, results, thumbnails
from contract.record import classified, failed
from producer.jobs.export.choice import Choice
from producer.jobs.job import find_exactly

_RANKS: Final = range(1, TOP + 1)
_COLUMNS: Final = (
    *(results.c[name] for name in ("position", "uri", "ref", "error_code", "error_detail")),
    results.c.model_number,
    *(results.c[f"class_{rank}"] for rank in _RANKS),
    *(results.c[f"score_{rank}"] for rank in _RANKS),
)
_SCORES: Final = len(_COLUMNS) - TOP
_CLASSES: Final = _SCORES - TOP

ClassKey = tuple[int, int]
"""Model number and class id."""


@dataclass(frozen=True, kw_only=True)
class Guess:
    label: str | None
    class_id: int
    score: float
    """A softmax probability."""


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """An image that has a thumbnail. `read_thumbnail` reads the JPEG itself."""

    position: int
    uri: str
    ref: str | None
    top5: tuple[Guess, ...]
    """The most likely first. Empty if the image failed."""
    error_code: str | None
    error_detail: str | None

    @property
    def label(self) -> str | None:
        """Of the top class."""
        return self.top5[0].label if self.top5 else None

    @property
    def score(self) -> float | None:
        """Of the top class."""
        return self.top5[0].score if self.top5 else None


def find_thumbnails(  # noqa: PLR0913  (what is chosen)
    connection: Connection,
    job_id: str,
    *,
    label: str | Sequence[str] | None = None,
    min_score: float | None = None,
    only: str | None = None,
    after: int | None = None,
    limit: int = 100,
) -> list[Thumbnail]:
    """Finished images of a job that have a thumbnail, in the order of positions.

    Args:
        connection: only read from.
        job_id: the whole id.
        label: of the top class; if several, any of them.
        min_score: of the top class, 0 to 1.
        only: "classified" or "failed".
        after: only later positions than this.
        limit: at most so many. If fewer come, there are no more.

    Raises:
        UnknownJobError: there is no such job.
        UsageError: a value is out of range, no image can match, or the job's model has no class
            of this label.
    """
    job = find_exactly(connection, job_id)
    wanted = (label,) if isinstance(label, str) else tuple(label or ())
    choice = Choice(only=only, labels=wanted, min_score=min_score, after=after)
    rows = connection.execute(
        select(*_COLUMNS)
        .join(
            thumbnails,
            (thumbnails.c.job_number == results.c.job_number)
            & (thumbnails.c.position == results.c.position),
        )
        .where(
            thumbnails.c.job_number == job.number,
            thumbnails.c.position >= choice.start,
            *choice.conditions(connection, job),
        )
        .order_by(thumbnails.c.position)
        .limit(limit)
    ).all()
    names = _labels(connection, {key for row in rows for key in _classes(row)})
    return [
        Thumbnail(
            position=row.position,
            uri=row.uri,
            ref=row.ref,
            top5=_guesses(row, names),
            error_code=row.error_code,
            error_detail=row.error_detail,
        )
        for row in rows
    ]


def read_thumbnail(connection: Connection, job_id: str, position: int) -> bytes | None:
    """The JPEG of one image. None: the image has none, or there is no such job."""
    jpeg: bytes | None = connection.scalar(
        select(thumbnails.c.jpeg)
        .join(jobs, jobs.c.number == thumbnails.c.job_number)
        .where(jobs.c.id == job_id, thumbnails.c.position == position)
    )
    return jpeg


def as_json(one: Thumbnail) -> dict[str, Any]:
    """The object that the API sends. A line of `results` has the same keys."""
    answer = (
        classified((guess.label, guess.class_id, guess.score) for guess in one.top5)
        if one.error_code is None
        else failed(one.error_code, one.error_detail or "")
    )
    return {"position": one.position, "uri": one.uri, "ref": one.ref} | answer


def _classes(row: Row[Any]) -> list[ClassKey]:
    found = row[_CLASSES:_SCORES]
    return [(row.model_number, class_id) for class_id in found if class_id is not None]


def _guesses(row: Row[Any], names: dict[ClassKey, str]) -> tuple[Guess, ...]:
    return tuple(
        Guess(label=names.get(key), class_id=key[1], score=score)
        for key, score in zip(_classes(row), row[_SCORES:], strict=False)
    )


def _labels(connection: Connection, keys: Iterable[ClassKey]) -> dict[ClassKey, str]:
    named = tuple_(labels.c.model_number, labels.c.class_id).in_(sorted(keys))
    rows = connection.execute(select(labels).where(named))
    return {(row.model_number, row.class_id): row.label for row in rows}
