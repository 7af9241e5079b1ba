"""`/workers`: each worker's queue, device, speed and work in progress."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, Response
from sqlalchemy import Connection, func, select

from contract.database.engine import reading
from contract.database.tables import chunks, jobs
from producer.api.service import Served, Service
from producer.jobs import served
from producer.pages.html import page, part

router = APIRouter(prefix="/workers")

# Seconds of work that fill the bar. A worker takes as much ahead as `RESNEXT_IN_FLIGHT_S` says,
# plus images that load slowly.
FULL_S: Final = 10.0


@router.get("")
def show(
    request: Request, service: Served, part_of: Annotated[str, Query(alias="part")] = ""
) -> Response:
    values = _fleet(service)
    if part_of == "fleet":
        html = part("_workers.html", request.state.session, **values)
        return HTMLResponse(html, 200, {"Cache-Control": "no-store"})
    return page(request, "workers.html", **values)


def _fleet(service: Service) -> dict[str, Any]:
    lease_s = service.settings.lease_s
    with reading(service.engine) as connection:
        found = served.workers(connection, lease_s)
        models = served.models(connection, lease_s)
        taken = _images_by_worker(connection)
        waiting = _images_by_queue(connection)
    workers = [asdict(one) | _load(taken.get(one.name, 0), one.images_per_s) for one in found]
    return {
        "here": "workers",
        "workers": workers,
        "models": [asdict(one) | {"waiting": waiting.get(one.queue, 0)} for one in models],
        "total_rate": sum(one.images_per_s for one in found),
        "total_images": sum(one["images"] for one in workers),
    }


def _load(images: int, images_per_s: float) -> dict[str, Any]:
    """The work that a worker has taken: in images, in seconds at its own rate, and as a share of a
    bar.
    """
    ahead_s = images / images_per_s if images and images_per_s > 0 else None
    busy = 0.0 if not images else 1.0 if ahead_s is None else min(1.0, ahead_s / FULL_S)
    return {"images": images, "ahead_s": ahead_s, "busy": busy}


def _images_by_worker(connection: Connection) -> dict[str, int]:
    """Images that workers have taken but not stored, by worker."""
    statement = (
        select(chunks.c.worker, func.sum(chunks.c.remaining_images).label("images"))
        .where(chunks.c.state == "running", chunks.c.worker.is_not(None))
        .group_by(chunks.c.worker)
    )
    return {row.worker: int(row.images) for row in connection.execute(statement)}


def _images_by_queue(connection: Connection) -> dict[str, int]:
    """Images of running jobs without a row, by queue. Rows stored just now may still be
    included.
    """
    left = func.sum(jobs.c.total - jobs.c.classified - jobs.c.failed).label("images")
    statement = select(jobs.c.queue, left).where(jobs.c.state == "running").group_by(jobs.c.queue)
    return {row.queue: max(0, int(row.images)) for row in connection.execute(statement)}
