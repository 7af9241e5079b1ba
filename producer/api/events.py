"""`GET /v1/jobs/{id}/events`: a job as it changes, as server-sent events.

    id: 5f2c…            (the job's ETag: a client sends it when it reconnects)
    event: progress
    data: {"id": "0b5f0c6a9d3e4f21", "state": "running", …}

Events are named `progress` until the job is finished. The last one is named `end`; then the stream
ends. A comment line every 15 seconds keeps proxies from closing the connection.
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
# The form in which OpenAPI 3.2 describes each event. Earlier versions cannot.
EVENT: Final = {
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string"},
        "event": {"enum": ["progress", "end"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/JobOut"},
        },
    },
}
KEEP_ALIVE_S: Final = 15.0
KEEP_ALIVE: Final = b": still here\n\n"
HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@router.get(
    "/{job_id}/events",
    response_class=Response,
    responses={
        200: {"content": {MEDIA_TYPE: {"itemSchema": EVENT}}},
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
    events = _events(looks_of(service, job.number, last_event_id))
    return StreamingResponse(events, media_type=MEDIA_TYPE, headers=HEADERS)


async def looks_of(service: Service, number: int, seen: str | None) -> AsyncIterator[Look | None]:
    """The job whenever it changes, the last time finished. None: nothing has changed for a while.

    `seen` is the id of the last event that the client has seen.
    """
    async with service.watch.looking_at(number) as looks:
        while True:
            look = None
            with suppress(TimeoutError):
                async with asyncio.timeout(KEEP_ALIVE_S):
                    look = await looks.next()
            # The end is always sent again: the client would not be back if it had seen it.
            if look is None or look.is_finished or _id_of(look) != seen:
                yield look
            if look is not None and look.is_finished:
                return


async def _events(looks: AsyncIterator[Look | None]) -> AsyncIterator[bytes]:
    async for look in looks:
        yield KEEP_ALIVE if look is None else event(look, look.content or b"{}")


def event(look: Look, data: bytes) -> bytes:
    """`data` must be one line."""
    name = b"end" if look.is_finished else b"progress"
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (_id_of(look).encode(), name, data)


def _id_of(look: Look) -> str:
    return look.etag.strip('"')
