"""Counts a job's failed images by error code and host: the first thing to look at."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final
from urllib.parse import urlsplit

from sqlalchemy import Connection, column, func, select, table

from contract.database.tables import results
from producer.jobs.job import Job

MOST_LOOKED_AT: Final = 500

# A view that migration 0006 creates.
_images = table("images", *map(column, ("job", "host", "error_code")))


def count_failures(connection: Connection, job: str, most: int) -> list[dict[str, Any]]:
    """Code, host (None: a file) and number of images, the most frequent first."""
    images = func.count().label("images")
    statement = (
        select(_images.c.error_code, _images.c.host, images)
        .where(_images.c.job == job, _images.c.error_code.is_not(None))
        .group_by(_images.c.error_code, _images.c.host)
        .order_by(images.desc(), _images.c.error_code, _images.c.host)
        .limit(most)
    )
    return [
        {"code": row.error_code, "host": row.host, "images": row.images}
        for row in connection.execute(statement)
    ]


def hosts_of(
    connection: Connection, job: Job, code: str, most: int = MOST_LOOKED_AT
) -> Counter[str | None]:
    """Hosts (None: a file) of the first `most` images with this error, and their counts."""
    uris = connection.scalars(
        select(results.c.uri)
        .where(results.c.job_number == job.number, results.c.error_code == code)
        .order_by(results.c.position)
        .limit(most)
    )
    return Counter(map(_host_of, uris))


def _host_of(uri: str) -> str | None:
    try:
        return urlsplit(uri).hostname or None
    except ValueError:
        return None
