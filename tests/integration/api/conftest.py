"""A server for the HTTP API in each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from contract.settings import Settings
from tests.servers.api import Api, serve


@pytest.fixture
def api(engine: Engine, settings: Settings) -> Iterator[Api]:
    yield from serve(engine, settings)
