"""`GET /v1/jobs/{id}/events`: a job as it changes, as server-sent events.

    id: 5f2c…            (the job's ETag: a client that comes back names it)
    event: progress
    data: {"id": "0b5f0c6a9d3e4f21", "state": "running", …}

Events have the name `progress` while the job goes on, and `end` once it is finished; then the
stream ends. A comment line every quarter of a minute keeps proxies from closing it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Final

from fastapi import APIRouter, Header
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse

from producer.api.problems import responses
from producer.api.service import Served, Service
from producer.api.watch import Look

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

MEDIA_TYPE: Final = "text/event-stream"
KEEP_ALIVE_S: Final = 15.0
KEEP_ALIVE: Final = b": still here\n\n"
HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@router.get(
    "/{job_id}/events",
    response_class=Response,
    responses={
        200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}},
        **responses(404),
    },
)
async def follow(
    service: Served,
    job_id: str,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """A job whenever it changes, at most once a second, until it is finished."""
    job = await run_in_threadpool(service.job, job_id)
    events = _events(service, job.number, last_event_id)
    return StreamingResponse(events, media_type=MEDIA_TYPE, headers=HEADERS)


async def _events(service: Service, number: int, seen: str | None) -> AsyncIterator[bytes]:
    async with service.watch.looking_at(number) as looks:
        while True:
            look = None
            with suppress(TimeoutError):
                async with asyncio.timeout(KEEP_ALIVE_S):
                    look = await looks.next()
            if look is None:
                yield KEEP_ALIVE
                continue
            # A client that saw the end is told again: it has come back since it missed it.
            if look.is_finished or _id_of(look) != seen:
                yield _event(look)
            if look.is_finished:
                return


def _event(look: Look) -> bytes:
    name = b"end" if look.is_finished else b"progress"
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (
        _id_of(look).encode(),
        name,
        look.content or b"{}",
    )


def _id_of(look: Look) -> str:
    return look.etag.strip('"')
