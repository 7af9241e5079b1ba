"""Who is at work, and on what: `resnextq workers` and `models`, and the same of the HTTP API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from contract.database.clock import db_now, iso
from contract.database.tables import jobs
from contract.database.tables import workers as table
from producer.jobs.job import live_workers


@dataclass(frozen=True, kw_only=True)
class Worker:
    name: str
    queue: str
    device: str
    precision: str
    version: str
    images_per_s: float
    started_at: datetime
    heartbeat_at: datetime
    stopping: bool


@dataclass(frozen=True, kw_only=True)
class Model:
    """What some job asks for."""

    model: str
    weights: str
    precision: str
    queue: str
    workers: int
    """That live."""


def workers(connection: Connection, lease_s: float) -> list[Worker]:
    """Those with a heartbeat within the lease, by name."""
    columns = [column for column in table.c if column.name != "crashed_by"]
    statement = select(*columns).where(table.c.heartbeat_at >= db_now(-lease_s))
    rows = connection.execute(statement.order_by(table.c.name)).mappings()
    return [Worker(**row) for row in rows]


def models(connection: Connection, lease_s: float) -> list[Model]:
    columns = (jobs.c.model, jobs.c.weights, jobs.c.precision, jobs.c.queue)
    served = live_workers(connection, lease_s)
    rows = connection.execute(select(*columns).distinct().order_by(*columns)).mappings().all()
    return [Model(**row, workers=served[row["queue"]]) for row in rows]


def workers_as_json(found: Sequence[Worker]) -> list[dict[str, Any]]:
    """The shape that `workers --json` prints."""
    return [
        {
            "name": worker.name,
            "queue": worker.queue,
            "device": worker.device,
            "precision": worker.precision,
            "version": worker.version,
            "images_per_s": round(worker.images_per_s, 3),
            "started_at": iso(worker.started_at),
            "heartbeat_at": iso(worker.heartbeat_at),
            "stopping": worker.stopping,
        }
        for worker in found
    ]


def models_as_json(found: Sequence[Model]) -> list[dict[str, Any]]:
    """The shape that `models --json` prints."""
    return [
        {
            "model": model.model,
            "weights": model.weights,
            "precision": model.precision,
            "queue": model.queue,
            "workers": model.workers,
        }
        for model in found
    ]
