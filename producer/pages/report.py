"""`resnextq report`: a job's page as one file that needs no network, server or script.

It holds only some of the job's thumbnails, so its size is bounded. A policy in its head forbids
loading anything and allows its style sheet by digest.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any, Final

from markupsafe import Markup
from sqlalchemy import Connection, Engine, Row, Select, select

from contract import VERSION
from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import results, thumbnails
from producer.jobs.export.rows import COLUMNS, Vocabulary
from producer.jobs.job import Job, as_json, live_workers
from producer.pages.gallery import Gallery, card_of
from producer.pages.html import STATIC, part
from producer.pages.job import progress_of
from producer.pages.view import look_at

Shown = tuple[Row[Any], str | None]
"""A row that begins with `COLUMNS`, and the URL of its picture."""

MOST_PICTURES: Final = 300
MOST_FAILED: Final = 24
MOST_PICTURE_BYTES: Final = 3_000_000
"""Limit of all pictures together, in base64."""


def make_report(engine: Engine, job: Job, lease_s: float) -> str:
    """The report of a job in its current state, 5 MB at most."""
    with reading(engine) as connection:
        view = look_at(connection, job)
        rows = [*_with_pictures(connection, job), *_failed(connection, job)]
        served = live_workers(connection, lease_s)
        now = connection.scalar(select(db_now()))
    vocabulary = Vocabulary(engine, job)
    cards = [card_of(row, vocabulary, picture) for row, picture in rows]
    shown = f"{len(cards):,} of {job.classified + job.failed:,} images."
    style = STATIC["pages.css"].decode()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    values: dict[str, Any] = progress_of(as_json(job, served)) | {
        "view": view,
        "gallery": Gallery(cards=cards, note=shown),
        "links": False,
        "can_retry": False,
        "style_sheet": Markup(style),  # noqa: S704  (our own file, which has no `<`)
        "style_digest": digest,
        "version": VERSION,
        "now": now,
    }
    return part("report.html", None, **values)


def _with_pictures(connection: Connection, job: Job) -> list[Shown]:
    """Images with thumbnails, evenly spread over all that have one."""
    of_job = thumbnails.c.job_number == job.number
    positions = connection.scalars(select(thumbnails.c.position).where(of_job)).all()
    wanted = _spread(sorted(positions), MOST_PICTURES)
    statement: Select[Any] = (
        select(*COLUMNS, thumbnails.c.jpeg)
        .join(
            thumbnails,
            (thumbnails.c.job_number == results.c.job_number)
            & (thumbnails.c.position == results.c.position),
        )
        .where(of_job, thumbnails.c.position.in_(wanted))
        .order_by(thumbnails.c.position)
    )
    rows, left = list[Shown](), MOST_PICTURE_BYTES
    for row in connection.execute(statement):
        address = f"data:image/jpeg;base64,{base64.b64encode(row.jpeg).decode()}"
        left -= len(address)
        if left < 0:
            break
        rows.append((row, address))
    return rows


def _failed(connection: Connection, job: Job) -> list[Shown]:
    """The first failed images of each error code."""
    each = max(1, MOST_FAILED // max(1, len(job.errors)))
    rows = list[Shown]()
    for code in list(job.errors)[:MOST_FAILED]:
        statement = (
            select(*COLUMNS)
            .where(results.c.job_number == job.number, results.c.error_code == code)
            .order_by(results.c.position)
            .limit(each)
        )
        rows += [(row, None) for row in connection.execute(statement)]
    return rows


def _spread(positions: Sequence[int], most: int) -> list[int]:
    if len(positions) <= most:
        return list(positions)
    return [positions[n * len(positions) // most] for n in range(most)]
