"""`GET /v1/models` and `/v1/workers`: what can be asked for now, and who answers."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response
from sqlalchemy import select

from contract.database.clock import db_now, iso
from contract.database.engine import reading
from contract.database.tables import jobs, workers
from producer.api.problems import responses
from producer.api.service import Served, json_answer
from producer.api.shapes import ModelsOut, WorkersOut
from producer.jobs.job import live_workers

router = APIRouter(prefix="/v1", tags=["service"])


@router.get("/models", responses={200: {"model": ModelsOut}, **responses()})
def models(service: Served) -> Response:
    """Models that jobs have asked for, each with how many workers serve it now."""
    columns = (jobs.c.model, jobs.c.weights, jobs.c.precision, jobs.c.queue)
    with reading(service.engine) as connection:
        rows = connection.execute(select(*columns).distinct().order_by(*columns)).all()
        served = live_workers(connection, service.settings.lease_s)
    shape = [
        {
            "model": row.model,
            "weights": row.weights,
            "precision": row.precision,
            "queue": row.queue,
            "workers": served[row.queue],
        }
        for row in rows
    ]
    return json_answer({"models": shape})


@router.get("/workers", responses={200: {"model": WorkersOut}, **responses()})
def live(service: Served) -> Response:
    """Workers with a heartbeat within the lease."""
    lease_s = service.settings.lease_s
    statement = select(workers).where(workers.c.heartbeat_at >= db_now(-lease_s))
    with reading(service.engine) as connection:
        rows = connection.execute(statement.order_by(workers.c.name)).all()
    return json_answer(
        {
            "workers": [
                {
                    "name": row.name,
                    "queue": row.queue,
                    "device": row.device,
                    "precision": row.precision,
                    "version": row.version,
                    "images_per_s": round(row.images_per_s, 3),
                    "started_at": iso(row.started_at),
                    "heartbeat_at": iso(row.heartbeat_at),
                    "stopping": row.stopping,
                }
                for row in rows
            ]
        }
    )
