"""Fixtures: a broker, a broker that a test may kill, a clock, and an installation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery import Celery
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from contract.broker.connection import make_celery
from contract.database.engine import make_engine
from contract.settings import Settings
from producer.dispatcher import leader as leadership
from producer.dispatcher import reap
from producer.dispatcher import unclaimed as lost
from tests.integration.dispatching import Clock
from tests.integration.installation import Installation
from worker.embedded.valkey import Valkey


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    app = make_celery(settings)
    yield app
    app.close()


@pytest.fixture
def mortal_valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """The clock for the dispatcher's grace, lease and term. The database has its own clock."""
    clock = Clock()
    for module in (leadership, lost, reap):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def installation(tmp_path: Path, settings: Settings, engine: Engine) -> Iterator[Installation]:
    environment = os.environ | {
        "RESNEXT_BROKER_URL": settings.broker(),
        "RESNEXT_DATABASE_URL": settings.database(),
        "RESNEXT_CHUNK_PATIENCE_S": "0.2",
        "RESNEXT_CHUNKS_IN_FLIGHT": "2",
        "RESNEXT_LEASE_S": "1",
        "RESNEXT_RETRY_BACKOFF_S": "0",
        "RESNEXT_MAX_BATCH_WAIT_MS": "10",
    }
    app = make_celery(settings)
    installation = Installation(tmp_path, settings, engine, app, environment)
    yield installation
    installation.end()
    installation.app.close()


@pytest.fixture
def set_reachable(settings: Settings, postgres_url: str) -> Iterator[Callable[..., None]]:
    """A function that makes the PostgreSQL database unreachable, and reachable again."""
    server = make_engine(
        postgres_url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT"
    )
    name = make_url(settings.database()).database

    def change(*, reachable: bool) -> None:
        with server.connect() as connection:
            connection.exec_driver_sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {reachable}")
            if not reachable:
                connection.exec_driver_sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    f"WHERE datname = '{name}'"
                )

    yield change
    server.dispose()
