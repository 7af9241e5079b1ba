"""What surrounds the dispatcher: a broker, one that a test may kill, and the time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from contract.broker import make_celery
from contract.settings import Settings
from producer import leadership, lost, reap
from tests.integration.dispatching import Clock
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
    """The time by which the dispatcher measures grace, lease and term; the database has its own."""
    clock = Clock()
    for module in (leadership, lost, reap):
        monkeypatch.setattr(module, "time", clock)
    return clock
