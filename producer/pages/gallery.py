"""Chooses the images that a job's page shows: a page of cards, by class, outcome, error and score.

For a small job it shows all images in order, for a large one those with a thumbnail. Failed images
have no thumbnail; an index finds them. The number of rows read does not grow with the job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Engine, Row, Select, select

from contract.database.engine import reading
from contract.database.tables import labels, results, thumbnails
from contract.errors import UsageError
from producer.jobs.export.choice import Choice, as_stored
from producer.jobs.export.rows import COLUMNS, Vocabulary, record_of
from producer.jobs.job import Job

A_PAGE: Final = 24
SMALL_JOB: Final = 500
"""Up to this size a job is shown completely."""
OUTCOMES: Final = ("", "classified", "failed")
ROWS_A_PAGE: Final = 5_000
"""Rows that are read for one page at most. So a page may be short and still have a next one."""
BATCH: Final = 250


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The filter that the user chose."""

    label: str | None = None
    outcome: str = ""
    error: str | None = None
    min_score: float | None = None
    after: str | None = None
    """Where the previous page ended: a position, or a code and a position."""

    @property
    def is_failed(self) -> bool:
        return self.outcome == "failed" or self.error is not None

    @property
    def is_filtered(self) -> bool:
        return bool(self.label or self.outcome or self.error or self.min_score is not None)


@dataclass(frozen=True, kw_only=True)
class Card:
    """An image in the gallery."""

    position: int
    uri: str
    ref: str | None
    top5: Sequence[dict[str, Any]]
    error_code: str | None
    error_detail: str | None
    picture: str | None
    """URL of its thumbnail. None: it has none."""

    @property
    def label(self) -> str | None:
        return self.top5[0]["label"] if self.top5 else None


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """A page of cards, with the filter that chose them."""

    cards: list[Card] = field(default_factory=list)
    next: str | None = None
    label: str | None = None
    outcome: str = ""
    error: str | None = None
    min_score: float | None = None
    after: str | None = None
    is_filtered: bool = False
    note: str | None = None
    wrong: str | None = None


def find_cards(engine: Engine, job: Job, wanted: Wanted, limit: int = A_PAGE) -> Gallery:
    """The next images that match. If the filter is invalid, the result says what is wrong."""
    empty = Gallery(
        label=wanted.label,
        outcome=wanted.outcome,
        error=wanted.error,
        min_score=wanted.min_score,
        after=wanted.after,
        is_filtered=wanted.is_filtered,
    )
    try:
        with reading(engine) as connection:
            _choice(wanted).conditions(connection, job)  # raises an error if the filter is invalid
            rows, following, note = _find(connection, job, wanted, limit)
            pictures = _with_thumbnails(connection, job, [row.position for row in rows])
    except UsageError as error:
        return replace(empty, wrong=str(error))
    vocabulary = Vocabulary(engine, job)  # last, because it opens its own connections
    cards = [
        card_of(
            row,
            vocabulary,
            address_of(job.id, row.position) if row.position in pictures else None,
        )
        for row in rows
    ]
    return replace(empty, cards=cards, next=following, note=note)


def _choice(wanted: Wanted) -> Choice:
    """The filter as a choice of images.

    Raises:
        UsageError: no image can match.
    """
    if wanted.outcome not in OUTCOMES:
        raise UsageError(f"The outcome must be classified or failed, got {wanted.outcome!r}.")
    return Choice(
        only=wanted.outcome or None,
        labels=(wanted.label,) if wanted.label else (),
        min_score=wanted.min_score,
        errors=(wanted.error,) if wanted.error else (),
    )


def _find(
    connection: Connection, job: Job, wanted: Wanted, limit: int
) -> tuple[list[Row[Any]], str | None, str | None]:
    """The rows, the start of the next page, and a remark."""
    if wanted.is_failed:
        rows = list(_failed(connection, job, wanted, limit + 1))
        more = len(rows) > limit
        last = rows[limit - 1] if more else None
        return rows[:limit], last and f"{last.error_code}:{last.position}", None
    is_sample = job.total > SMALL_JOB and _has_thumbnails(connection, job)
    rows, seen = _look_through(connection, job, wanted, limit, is_sample=is_sample)
    note = (
        "This is a sample of the job: thumbnails are kept of some hundred images."
        if is_sample
        else None
    )
    if len(rows) > limit:
        return rows[:limit], str(rows[limit - 1].position), note
    return rows, None if seen is None else str(seen), note


def _look_through(
    connection: Connection, job: Job, wanted: Wanted, limit: int, *, is_sample: bool
) -> tuple[list[Row[Any]], int | None]:
    """The next rows that match, at most `limit` + 1. Also the last position that was read, if there
    may be more rows after it.

    Rows are read in the order of their keys and chosen here. With a condition on the class, a
    database would read that class of all jobs.
    """
    fits = _make_filter(connection, wanted)
    batch = BATCH if wanted.is_filtered else limit + 1
    rows, looked_at, after = list[Row[Any]](), 0, _position(wanted.after)
    while len(rows) <= limit:
        statement = _rows(job, after).limit(batch)
        if is_sample:
            of_picture = (thumbnails.c.job_number == results.c.job_number) & (
                thumbnails.c.position == results.c.position
            )
            statement = statement.join(thumbnails, of_picture)
            statement = statement.where(thumbnails.c.job_number == job.number)
        found = connection.execute(statement).all()
        rows += [row for row in found if fits(row)]
        if len(found) < batch:
            return rows, None
        looked_at, after = looked_at + len(found), found[-1].position
        if looked_at >= ROWS_A_PAGE:
            break
    return rows, after


def _make_filter(connection: Connection, wanted: Wanted) -> Callable[[Row[Any]], bool]:
    classes: set[tuple[int, int]] | None = None
    if wanted.label:
        named = select(labels.c.model_number, labels.c.class_id).where(
            labels.c.label == wanted.label
        )
        classes = {(row.model_number, row.class_id) for row in connection.execute(named)}
    least = None if wanted.min_score is None else as_stored(wanted.min_score)

    def fits(row: Row[Any]) -> bool:
        if wanted.is_filtered and row.error_code is not None:
            return False
        if classes is not None and (row.model_number, row.class_1) not in classes:
            return False
        return least is None or (row.score_1 is not None and row.score_1 >= least)

    return fits


def _rows(job: Job, after: int, *where: ColumnElement[bool]) -> Select[Any]:
    return (
        select(*COLUMNS)
        .where(results.c.job_number == job.number, results.c.position > after, *where)
        .order_by(results.c.position)
    )


def _failed(connection: Connection, job: Job, wanted: Wanted, limit: int) -> Iterator[Row[Any]]:
    """Failed rows by error code, and within a code by position, in the order of the index."""
    code, _, position = (wanted.after or "").rpartition(":")
    after, left = _position(position), limit
    for one in sorted([wanted.error] if wanted.error else job.errors):
        if one < code or not left:
            continue
        statement = _rows(job, after if one == code else -1, results.c.error_code == one)
        for row in connection.execute(statement.limit(left)):
            left -= 1
            yield row


def _position(text: str | None) -> int:
    """The position in a cursor.

    Raises:
        UsageError: the text is not a position.
    """
    if not text:
        return -1
    if not (text.isascii() and text.isdecimal() and len(text) < 19):  # noqa: PLR2004  (a BIGINT)
        raise UsageError(f"{text[:40]!r} is not the end of a page. Go back to the first page.")
    return int(text)


def _has_thumbnails(connection: Connection, job: Job) -> bool:
    there = select(thumbnails.c.position).where(thumbnails.c.job_number == job.number).limit(1)
    return connection.scalar(there) is not None


def _with_thumbnails(connection: Connection, job: Job, positions: Sequence[int]) -> set[int]:
    statement = select(thumbnails.c.position).where(
        thumbnails.c.job_number == job.number, thumbnails.c.position.in_(positions)
    )
    return set(connection.scalars(statement))


def card_of(row: Row[Any], vocabulary: Vocabulary, picture: str | None) -> Card:
    """`row` begins with `COLUMNS`. `picture` is the URL of its thumbnail."""
    record = record_of(tuple(row), vocabulary)
    error = record.get("error") or {}
    return Card(
        position=row.position,
        uri=row.uri,
        ref=row.ref,
        top5=record.get("top5") or (),
        error_code=error.get("code"),
        error_detail=error.get("detail"),
        picture=picture,
    )


def address_of(job_id: str, position: int) -> str:
    """The URL of an image's thumbnail."""
    return f"/jobs/{job_id}/thumbnails/{position}"
