"""How many of a job's images have failed, by error code and host: what to look at first."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, column, func, select, table

# A view of the migrations; see migration 0006.
_images = table("images", *map(column, ("job", "host", "error_code")))


def count_failures(connection: Connection, job: str, most: int) -> list[dict[str, Any]]:
    """Code, host (None: of a file) and number of images, the most frequent first."""
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
