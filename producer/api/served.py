"""`GET /v1/models` and `/v1/workers`: which models jobs use, and which workers are live."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from contract.database.engine import reading
from producer.api.problems import responses
from producer.api.service import Served, json_answer
from producer.api.shapes import ModelsOut, WorkersOut
from producer.jobs import served

router = APIRouter(prefix="/v1", tags=["service"])


@router.get("/models", responses={200: {"model": ModelsOut}, **responses()})
def models(service: Served) -> Response:
    """Models that jobs have asked for, with the number of workers that serve each now."""
    with reading(service.engine) as connection:
        found = served.models(connection, service.settings.lease_s)
    return json_answer({"models": served.models_as_json(found)})


@router.get("/workers", responses={200: {"model": WorkersOut}, **responses()})
def live(service: Served) -> Response:
    """Workers with a heartbeat within the lease."""
    with reading(service.engine) as connection:
        found = served.workers(connection, service.settings.lease_s)
    return json_answer({"workers": served.workers_as_json(found)})
