"""The endpoints of jobs: submit, list, show, wait, change, cancel, retry and delete."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from pydantic import BeforeValidator

from contract.database.engine import reading
from producer.api.bodies import BodyOf
from producer.api.cursors import Cursor, cursor_of, number_of
from producer.api.orders import (
    JSON_TYPES,
    LIST_TYPES,
    images_of,
    images_of_list,
    intake_of,
    order_of,
    read_json,
)
from producer.api.problems import responses
from producer.api.service import (
    Caller,
    Served,
    Service,
    job_answer,
    json_answer,
)
from producer.api.shapes import (
    EditIn,
    JobOut,
    JobsOut,
    ListOptions,
    RetryIn,
    RetryOut,
    SubmittedOut,
)
from producer.jobs.cancel import cancel
from producer.jobs.change import edit, pause, resume
from producer.jobs.job import as_json, live_workers
from producer.jobs.listed import Filter, list_jobs
from producer.jobs.purge import delete
from producer.jobs.retry import retry
from producer.submit.submission import submit_entries

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

MOST_JOBS: Final = 1_000
LONGEST_WAIT_S: Final = 60.0
LISTS: Final = {
    "application/json": {"schema": {"$ref": "#/components/schemas/JobIn"}},
    **{media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in LIST_TYPES},
}


def _check_moment(given: object) -> object:
    """Refuses what pydantic would also take: numbers, and times without a time zone."""
    if isinstance(given, str) and RFC3339.fullmatch(given) is None:
        raise ValueError("expected a time like 2026-11-29T12:00:00Z")
    return given


RFC3339: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
Moment = Annotated[datetime, BeforeValidator(_check_moment)]
State = Annotated[str | None, Query(pattern="^(submitting|running|completed|cancelled|expired)$")]


@router.post(
    "",
    status_code=201,
    responses={
        201: {"model": SubmittedOut},
        200: {"model": SubmittedOut},
        **responses(409, 413, 415),
    },
    openapi_extra={"requestBody": {"required": True, "content": LISTS}},
)
def submit(  # noqa: PLR0913, PLR0917  (the query's parameters)
    request: Request,
    service: Served,
    key: Caller,
    body: BodyOf,
    options: Annotated[ListOptions, Query()],
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> Response:
    """Submit images: JSON, or a list with the other values as query parameters.

    If any URI is invalid, nothing is submitted. With an `Idempotency-Key`, the same request again
    returns the same job (200) and submits nothing.
    """
    if body.media_type in JSON_TYPES:
        wanted = read_json(body)
        order = order_of(service.settings, wanted, key, idempotency_key)
        submission = submit_entries(
            service.engine, images_of(wanted), order, intake=intake_of(wanted)
        )
    else:
        order = order_of(service.settings, options, key, idempotency_key)
        submission = submit_entries(
            service.engine, images_of_list(body, options), order, intake=intake_of(options)
        )
    job, served = service.job_and_served(submission.job)
    return job_answer(
        job,
        served,
        status=200 if submission.repeated else 201,
        headers={"Location": str(request.url_for("look", job_id=job.id).path)},
        more={"notify_secret": submission.notify_secret},
    )


@router.get("", responses={200: {"model": JobsOut}, **responses()})
def listed(  # noqa: PLR0913, PLR0917  (the query's parameters)
    request: Request,
    service: Served,
    key: Caller,
    state: State = None,
    name: Annotated[str | None, Query(description="Part of the name.")] = None,
    tag: Annotated[
        list[str] | None,
        Query(description="`key` or `key=value`. If several, a job must have all."),
    ] = None,
    since: Annotated[Moment | None, Query(description="Created at this time or later.")] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_JOBS)] = 100,
    cursor: Cursor = None,
) -> Response:
    """The jobs, the newest first, one page at once. A key without `read` sees its owner's jobs."""
    wanted = Filter(
        owner=None if "read" in key.scopes else key.owner,
        state=state,
        name=name,
        tags=tag or (),
        since=since,
        before=None if cursor is None else number_of(cursor),
    )
    with reading(service.engine) as connection:
        found = list_jobs(connection, wanted, limit + 1)
        served = live_workers(connection, service.settings.lease_s)
    page, more = found[:limit], len(found) > limit
    following = cursor_of(page[-1].number) if more else None
    headers = {}
    if following is not None:
        after = request.url.include_query_params(cursor=following)
        headers["Link"] = f'<{after.path}?{after.query}>; rel="next"'
    shape = {"jobs": [as_json(job, served) for job in page], "next": following}
    return json_answer(shape, headers=headers)


@router.get(
    "/{job_id}",
    responses={200: {"model": JobOut}, 304: {"description": "Not changed."}, **responses(404)},
)
async def look(
    service: Served,
    job_id: str,
    wait_s: Annotated[
        float,
        Query(
            ge=0,
            le=LONGEST_WAIT_S,
            allow_inf_nan=False,
            description="Wait up to this many seconds for the job to finish.",
        ),
    ] = 0.0,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """A job, with exact counts. `Retry-After` says when to ask again."""
    job, served = await run_in_threadpool(service.job_and_served, job_id)
    if wait_s and not job.is_finished:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await _end_of(service, job.number)
        job, served = await run_in_threadpool(service.job_and_served, job_id)
    answer = job_answer(job, served)
    if if_none_match == answer.headers["etag"]:
        return Response(status_code=304, headers=dict(answer.headers) | {"content-length": "0"})
    return answer


@router.post("/{job_id}/cancel", responses={200: {"model": JobOut}, **responses(404, 409)})
def cancelled(service: Served, job_id: str) -> Response:
    """Stop a job. Results are kept; all other images get the error code `cancelled`."""
    service.job(job_id)  # requires exactly this id
    cancel(service.engine, job_id)
    return _answer(service, job_id)


@router.post("/{job_id}/retry", responses={200: {"model": RetryOut}, **responses(404, 409)})
def retried(service: Served, job_id: str, wanted: RetryIn | None = None) -> Response:
    """Run failed images again and replace their results."""
    service.job(job_id)
    again = retry(service.engine, job_id, wanted.errors if wanted else ())
    return json_answer({"images": again.images, "left": again.left})


@router.post("/{job_id}/pause", responses={200: {"model": JobOut}, **responses(404, 409)})
def paused(service: Served, job_id: str) -> Response:
    """Pause a job: no more images are given to workers. Workers finish the images that they
    have.
    """
    service.job(job_id)
    pause(service.engine, job_id)
    return _answer(service, job_id)


@router.post("/{job_id}/resume", responses={200: {"model": JobOut}, **responses(404, 409)})
def resumed(service: Served, job_id: str) -> Response:
    """Resume a paused job."""
    service.job(job_id)
    resume(service.engine, job_id)
    return _answer(service, job_id)


@router.patch("/{job_id}", responses={200: {"model": JobOut}, **responses(404)})
def edited(service: Served, job_id: str, wanted: EditIn) -> Response:
    """Change name, priority or tags. Omitted values stay."""
    service.job(job_id)
    tags = wanted.tags or {}
    edit(
        service.engine,
        job_id,
        name=wanted.name,
        priority=wanted.priority,
        tags={key: value for key, value in tags.items() if value is not None},
        untag=[key for key, value in tags.items() if value is None],
    )
    return _answer(service, job_id)


@router.delete(
    "/{job_id}",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "The job is deleted."}, **responses(404, 409)},
)
def deleted(service: Served, job_id: str) -> Response:
    """Delete a job that has ended, with its results. It is unknown at once. The dispatcher deletes
    its rows in the background.
    """
    service.job(job_id)
    delete(service.engine, job_id)
    return Response(status_code=204)


def _answer(service: Service, job_id: str) -> Response:
    job, served = service.job_and_served(job_id)
    return job_answer(job, served)


async def _end_of(service: Service, number: int) -> None:
    async with service.watch.looking_at(number) as looks:
        while not (await looks.next()).is_finished:
            pass
