"""The statement with which KEDA asks PostgreSQL for the pending work."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, text, update

from contract.database.clock import db_now
from contract.database.tables import jobs
from tests.kustomization import load

ROOT = Path(__file__).parents[3]
SCALED = load(ROOT / "deploy" / "kubernetes" / "keda" / "scaledobject.yaml")[0]
QUERY = SCALED["spec"]["triggers"][0]["metadata"]["query"]
QUEUE = "resnext101_32x4d.nvidia.amp"

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def work(engine: Engine) -> int:
    """Run the statement as KEDA does: it returns one row with a number."""
    with engine.connect() as connection:
        (row,) = connection.execute(text(QUERY)).all()
    return int(row[0])


def add(engine: Engine, job: str, **columns: object) -> None:
    row = {
        "id": job, "owner": "me", "priority": 0, "state": "running", "model": "m", "weights": "w",
        "precision": "amp", "queue": QUEUE, "created_at": db_now(), "total": 100, "classified": 0,
        "failed": 0, "errors": {}, "images_per_s": 0.0,
    }  # fmt: skip
    with engine.begin() as connection:
        connection.execute(insert(jobs).values(**row | columns))


def change(engine: Engine, **columns: object) -> None:
    with engine.begin() as connection:
        connection.execute(update(jobs).values(**columns))


def test_the_number_follows_the_work_and_returns_to_zero(engine: Engine) -> None:
    assert work(engine) == 0
    add(engine, "one")
    add(engine, "two", classified=60, failed=5)
    assert work(engine) == 100 + 35
    change(engine, classified=95, failed=4)
    assert work(engine) == 2, "running images count until they are stored"
    change(engine, classified=96, state="completed")
    assert work(engine) == 0


def test_only_work_that_a_worker_could_get_counts(engine: Engine) -> None:
    add(engine, "another queue", queue="resnext50_32x4d.torchvision.amp")
    add(engine, "being submitted", state="submitting")
    add(engine, "cancelled", state="cancelled")
    add(engine, "paused", paused_at=db_now())
    assert work(engine) == 0
    change(engine, paused_at=None)
    assert work(engine) == 100
