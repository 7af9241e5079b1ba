"""What every endpoint needs: the database, the settings, the watch on jobs, and how to answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, Final, cast

import orjson
from fastapi import Depends, Request
from fastapi.responses import Response
from sqlalchemy import Engine

from contract.database.engine import reading
from contract.settings import Settings
from producer.api.keys import Key
from producer.api.uploads import Uploads
from producer.api.watch import Watch, etag_of
from producer.jobs.job import Job, as_json, find_exactly, live_workers

MEDIA_TYPE: Final = "application/json"


@dataclass(frozen=True, kw_only=True)
class Service:
    engine: Engine
    settings: Settings
    watch: Watch
    uploads: Uploads | None

    def job(self, job_id: str) -> Job:
        """The job with this id.

        Raises:
            UnknownJobError: no job has exactly this id.
        """
        with reading(self.engine) as connection:
            return find_exactly(connection, job_id)

    def job_and_served(self, job_id: str) -> tuple[Job, Counter[str]]:
        with reading(self.engine) as connection:
            found = find_exactly(connection, job_id)
            return found, live_workers(connection, self.settings.lease_s)


# Asynchronous, because FastAPI would run it in another thread otherwise.
async def _service_of(request: Request) -> Service:
    return cast("Service", request.app.state.service)


async def _key_of(request: Request) -> Key:
    return cast("Key", request.state.key)


Served = Annotated[Service, Depends(_service_of)]
Caller = Annotated[Key, Depends(_key_of)]


def json_answer(
    shape: Any,  # noqa: ANN401  (what JSON can be)
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    return Response(
        orjson.dumps(shape), status, {"Cache-Control": "no-store"} | (headers or {}), MEDIA_TYPE
    )


def job_answer(
    job: Job,
    served: Counter[str],
    *,
    status: int = 200,
    headers: dict[str, str] | None = None,
    more: dict[str, Any] | None = None,
) -> Response:
    """A job with its ETag and, until it is finished, with `Retry-After`."""
    content = orjson.dumps(as_json(job, served) | (more or {}))
    found = {"ETag": etag_of(content), "Cache-Control": "no-cache"} | (headers or {})
    if not job.is_finished:
        found["Retry-After"] = str(retry_after_s(job))
    return Response(content, status, found, MEDIA_TYPE)


def retry_after_s(job: Job) -> int:
    """A tenth of the remaining time, from 1 to 30 seconds."""
    return 5 if job.eta_s is None else min(30, max(1, round(job.eta_s / 10)))
