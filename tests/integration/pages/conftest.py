"""The pages with the API, and visitors with and without a login."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from contract.settings import Settings
from producer.pages.site import make_site
from tests.servers.api import Api, serve
from tests.servers.visitor import Visitor


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    (tmp_path / "uploads").mkdir()
    return settings.model_copy(update={"uploads": str(tmp_path / "uploads")})


@pytest.fixture
def site(engine: Engine, settings: Settings) -> Iterator[Api]:
    yield from serve(engine, settings, make_site)


@pytest.fixture
def stranger(site: Api) -> Visitor:
    return Visitor(site.url)


@pytest.fixture
def visitor(site: Api) -> Visitor:
    """A visitor logged in with a key that may read and submit."""
    found = Visitor(site.url)
    assert found.log_in(site.submitter.key).ok
    return found


@pytest.fixture
def reader(site: Api) -> Visitor:
    """A visitor logged in with a key that may only read."""
    found = Visitor(site.url)
    assert found.log_in(site.reader.key).ok
    return found
