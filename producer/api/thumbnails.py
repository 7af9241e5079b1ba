"""The endpoints of a job's thumbnails: a list of images that have one, and each picture."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Header, Path, Query
from fastapi.responses import Response

from contract.database.engine import reading
from producer.api.cursors import Cursor, cursor_of, number_of
from producer.api.problems import Refused, responses
from producer.api.results import LabelQuery, MinScoreQuery, OnlyQuery
from producer.api.service import Served, json_answer
from producer.api.shapes import ThumbnailsOut
from producer.api.watch import etag_of
from producer.jobs.thumbnails import as_json, find_thumbnails, read_thumbnail

router = APIRouter(prefix="/v1/jobs", tags=["results"])

MOST_THUMBNAILS: Final = 1_000
JPEG: Final = "image/jpeg"
# Only for the reader's own cache. A retry may change a thumbnail, and a purge may delete it.
CACHE: Final = "private, max-age=3600"
LAST_POSITION: Final = 2**63 - 1
Position = Annotated[int, Path(ge=0, le=LAST_POSITION)]


@router.get("/{job_id}/thumbnails", responses={200: {"model": ThumbnailsOut}, **responses(404)})
def thumbnails(  # noqa: PLR0913, PLR0917  (the query's parameters)
    service: Served,
    job_id: str,
    only: OnlyQuery = None,
    label: LabelQuery = None,
    min_score: MinScoreQuery = None,
    limit: Annotated[int, Query(ge=1, le=MOST_THUMBNAILS)] = 100,
    cursor: Cursor = None,
) -> Response:
    """Images that have a thumbnail, with their answers, in the order of the submit."""
    with reading(service.engine) as connection:
        found = find_thumbnails(
            connection,
            job_id,
            label=label,
            min_score=min_score,
            only=only,
            after=None if cursor is None else number_of(cursor),
            limit=limit + 1,  # to see whether there is a next page
        )
    following = cursor_of(found[limit - 1].position) if len(found) > limit else None
    return json_answer({"thumbnails": list(map(as_json, found[:limit])), "next": following})


@router.get(
    "/{job_id}/thumbnails/{position}",
    response_class=Response,
    responses={
        200: {"content": {JPEG: {"schema": {"type": "string", "format": "binary"}}}},
        304: {"description": "Not changed since `If-None-Match`."},
        **responses(404),
    },
)
def thumbnail(
    service: Served,
    job_id: str,
    position: Position,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """A small JPEG of the part of an image that the network saw."""
    job = service.job(job_id)
    with reading(service.engine) as connection:
        jpeg = read_thumbnail(connection, job.id, position)
    if jpeg is None:
        raise Refused(
            404,
            f"Image {position} of this job has no thumbnail: it is not in the sample, is not "
            "classified yet, or its thumbnail was deleted.",
        )
    headers = {"ETag": etag_of(jpeg), "Cache-Control": CACHE}
    known = {one.strip().removeprefix("W/") for one in (if_none_match or "").split(",")}
    if known & {headers["ETag"], "*"}:
        return Response(status_code=304, headers=headers)
    return Response(jpeg, 200, headers, JPEG)
