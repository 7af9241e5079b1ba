"""The endpoints of what has become of a job's images: results, classes, errors."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query
from fastapi.responses import Response

from contract.database.engine import reading
from producer.api.problems import responses
from producer.api.service import Served, json_answer
from producer.api.shapes import ClassesOut, ErrorsOut
from producer.jobs.classes import as_json, count_classes
from producer.jobs.failures import count_failures

router = APIRouter(prefix="/v1/jobs", tags=["results"])

MOST_CLASSES: Final = 1_000
MOST_ERRORS: Final = 10_000
Only = Literal["classified", "failed"]


@router.get("/{job_id}/classes", responses={200: {"model": ClassesOut}, **responses(404)})
def classes(
    service: Served, job_id: str, limit: Annotated[int, Query(ge=1, le=MOST_CLASSES)] = 100
) -> Response:
    """How many images have which class as their likeliest."""
    job = service.job(job_id)
    with reading(service.engine) as connection:
        found = count_classes(connection, job.number, limit)
    return json_answer({"classes": as_json(found)})


@router.get("/{job_id}/errors", responses={200: {"model": ErrorsOut}, **responses(404)})
def errors(
    service: Served, job_id: str, limit: Annotated[int, Query(ge=1, le=MOST_ERRORS)] = 1_000
) -> Response:
    """How many images have failed, by error code and host."""
    job = service.job(job_id)
    with reading(service.engine) as connection:
        found = count_failures(connection, job.id, limit)
    return json_answer({"errors": found})
