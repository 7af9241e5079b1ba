"""`/jobs/{id}/images/{position}`: one image with all that is known about it, and its thumbnail."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from sqlalchemy import select

from contract.database.engine import reading
from contract.database.tables import results
from producer.api.problems import Refused
from producer.api.service import Served
from producer.jobs.export.rows import COLUMNS, Vocabulary, record_of
from producer.jobs.thumbnails import read_thumbnail
from producer.pages.gallery import address_of
from producer.pages.html import page

router = APIRouter(prefix="/jobs")

LARGEST: Final = 2**63 - 1
Position = Annotated[int, Path(ge=0, le=LARGEST)]
# A worker has encoded the bytes. Still, browsers must not take anything in them for a page.
PICTURE_HEADERS: Final = {
    "Cache-Control": "private, max-age=3600",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}


@router.get("/{job_id}/images/{position}")
def show(request: Request, service: Served, job_id: str, position: Position) -> Response:
    job = service.job(job_id)
    statement = select(*COLUMNS, results.c.settled_at, results.c.worker).where(
        results.c.job_number == job.number, results.c.position == position
    )
    with reading(service.engine) as connection:
        row = connection.execute(statement).first()
        has_picture = read_thumbnail(connection, job.id, position) is not None
    if row is None:
        raise Refused(
            404,
            f"Image {position:,} is not finished yet."
            if position < job.total
            else f"The job has {job.total:,} images. They are numbered from 0.",
        )
    return page(
        request,
        "picture.html",
        job=job,
        record=record_of(tuple(row[: len(COLUMNS)]), Vocabulary(service.engine, job)),
        settled_at=row.settled_at,
        worker=row.worker,
        picture=address_of(job.id, position) if has_picture else None,
        here="jobs",
    )


@router.get("/{job_id}/thumbnails/{position}")
def thumbnail(service: Served, job_id: str, position: Position) -> Response:
    with reading(service.engine) as connection:
        jpeg = read_thumbnail(connection, job_id, position)
    if jpeg is None:
        raise Refused(404, f"Image {position:,} has no thumbnail.")
    return Response(jpeg, 200, PICTURE_HEADERS, "image/jpeg")
