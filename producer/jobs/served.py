"""Lists live workers and models, for `resnextq workers` and `models` and the HTTP API."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from shlex import quote
from typing import Any

from sqlalchemy import Connection, select

from contract.chunks.remove import ABANDONED
from contract.database.clock import db_now, iso
from contract.database.tables import jobs
from contract.database.tables import workers as table
from contract.models import default_weights
from contract.settings import PREFIX, Settings
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
    """A model that some job asks for."""

    model: str
    weights: str
    precision: str
    queue: str
    workers: int
    """Number of live workers."""


def workers(connection: Connection, lease_s: float) -> list[Worker]:
    """Workers with a heartbeat within the lease, by name."""
    columns = [column for column in table.c if column.name != "crashed_by"]
    statement = select(*columns).where(table.c.heartbeat_at >= db_now(-lease_s))
    rows = connection.execute(statement.order_by(table.c.name)).mappings()
    return [Worker(**row) for row in rows]


def models(connection: Connection, lease_s: float) -> list[Model]:
    columns = (jobs.c.model, jobs.c.weights, jobs.c.precision, jobs.c.queue)
    served = live_workers(connection, lease_s)
    asked = select(*columns).where(jobs.c.state != ABANDONED).distinct().order_by(*columns)
    rows = connection.execute(asked).mappings().all()
    return [Model(**row, workers=served[row["queue"]]) for row in rows]


def no_worker(queue: str, served: Counter[str]) -> str | None:
    """Says that no live worker takes chunks of this queue. None if one does."""
    if served[queue]:
        return None
    others = f"the workers serve {', '.join(sorted(served))}" if served else "no worker is running"
    return f"waiting: no worker serves {queue}; {others}"


def start_one(model: str, weights: str, precision: str) -> str:
    """The command that starts a worker for this model."""
    variables = [f"{PREFIX}MODEL={quote(model)}"]
    if weights != default_weights(model):
        variables.append(f"{PREFIX}WEIGHTS={quote(weights)}")
    if precision != Settings.model_fields["precision"].default:
        variables.append(f"{PREFIX}PRECISION={precision}")
    return " ".join([*variables, "resnextq worker"])


def workers_as_json(found: Sequence[Worker]) -> list[dict[str, Any]]:
    """The object that `workers --json` prints."""
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
    """The object that `models --json` prints."""
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
