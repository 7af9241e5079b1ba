"""Fixtures: the dashboard, and a worker that it knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.dashboard import Dashboard
from tests.integration.dispatching import until
from tests.integration.installation import Installation


@pytest.fixture
def dashboard(installation: Installation, tmp_path: Path) -> Iterator[Dashboard]:
    dashboard = Dashboard(installation, tmp_path / "home")
    yield dashboard
    dashboard.stop()


@pytest.fixture
def node(installation: Installation, dashboard: Dashboard) -> str:
    """Start the dashboard and a worker. Returns the worker's name in the dashboard."""
    dashboard.start()
    installation.start()
    until(lambda: dashboard.json("/api/workers?refresh=1"), lambda: dashboard.log)
    (name,) = dashboard.json("/api/workers")
    until(lambda: dashboard.knows(name), lambda: dashboard.log)
    return str(name)
