"""A job with one slow host, from submit to its rows: deferred images come to an end.

The dispatcher, Redis, SQLite, task, loaders and server are real. The classifier is a double.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import Engine, select

from contract.broker.message import ChunkMessage
from contract.database.engine import reading
from contract.database.tables import chunks, results
from contract.settings import Settings
from producer.dispatcher.publish import publish
from producer.submit.submission import submit
from resnext.spec.catalogue import find_spec
from tests.doubles.classifier import Classifier
from tests.integration.dispatching import take, until, waiting
from tests.servers.sites import LOOPBACK, Site, serving
from worker.chunk import store
from worker.main import Parts, build
from worker.pool.pool import LoaderPool

IMAGES = 30
CHUNK_IMAGES = 15
PLACES = 2
TASKS = 2

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A host gets two of four slots, and tasks wait only briefly for it."""
    return settings.model_copy(
        update={
            "loaders": 1,
            "fetches_per_loader": 2 * PLACES,
            "fetch_allow": (LOOPBACK,),
            "fetch_deadline_s": 0.3,
            "chunk_images": CHUNK_IMAGES,
            "chunk_patience_s": 0.1,
            "retry_backoff_s": 0.0,
            "weights": "nvidia",
        }
    )


@pytest.fixture
def site() -> Iterator[Site]:
    with serving("127.0.0.2") as site:
        yield site


@dataclass
class Worker:
    """A worker without Celery: a test gives it the dispatcher's messages."""

    engine: Engine
    app: Celery
    settings: Settings
    parts: Parts

    def run(self, message: ChunkMessage) -> dict[str, Any]:
        summary = self.parts.task.classify_chunk(message.encode())
        assert isinstance(summary, dict), summary
        return summary

    def run_all(self) -> list[dict[str, Any]]:
        """Run chunks until all are done. Returns each run's summary, as Flower shows it."""
        summaries = []
        with ThreadPoolExecutor(TASKS) as tasks:
            while not set(self.states()) <= {"done"}:
                publish(self.engine, self.app, self.settings)
                messages = [take(self.app).message for _ in waiting(self.app)]
                summaries += tasks.map(self.run, messages)
        return summaries

    def states(self) -> list[str]:
        with reading(self.engine) as connection:
            return list(connection.scalars(select(chunks.c.state)))

    def rows(self) -> list[Any]:
        with reading(self.engine) as connection:
            return list(connection.execute(select(results).order_by(results.c.position)))


@pytest.fixture
def worker(engine: Engine, app: Celery, settings: Settings) -> Iterator[Worker]:
    loaders = LoaderPool(settings, find_spec("resnext101_32x4d").preprocessing)
    loaders.start()
    parts = build(settings, engine, loaders, Classifier(), when_broken=lambda: None)  # type: ignore[arg-type]
    with parts.running():
        yield Worker(engine, app, settings, parts)
    loaders.close()


@pytest.fixture
def _soon(monkeypatch) -> None:
    """Deferred images are due again at once."""
    monkeypatch.setattr(store, "SHORTEST_DEFERRAL_S", 0.0)
    monkeypatch.setattr(store, "LONGEST_DEFERRAL_S", 0.0)


@pytest.mark.usefixtures("_soon")
def test_a_dead_host_fails_each_image_after_all_its_attempts(worker: Worker, site: Site) -> None:
    site.open.clear()
    submit(worker.engine, ((uri, None) for uri in site.uris(IMAGES)), settings=worker.settings)
    summaries = worker.run_all()
    assert [row.position for row in worker.rows()] == list(range(IMAGES))
    assert {row.error_code for row in worker.rows()} == {"timeout"}
    assert {row.attempts for row in worker.rows()} == {3}
    assert sum(summary["deferred"] for summary in summaries) > 0


def test_a_stopping_worker_hands_back_parked_images(worker: Worker, site: Site) -> None:
    site.open.clear()
    settings = worker.settings.model_copy(update={"chunk_images": 8})
    submit(worker.engine, ((uri, None) for uri in site.uris(8)), settings=settings)
    publish(worker.engine, worker.app, settings)
    message = take(worker.app).message
    with ThreadPoolExecutor(1) as tasks:
        running = tasks.submit(worker.run, message)
        until(lambda: site.begun)
        worker.parts.drain()
        summary = running.result()
    worker.parts.stragglers.close()
    assert summary["classified"] == 0
    with reading(worker.engine) as connection:
        chunk = connection.execute(select(chunks)).one()
    assert (chunk.state, chunk.attempt) == ("pending", 0)
    assert chunk.remaining_images + len(worker.rows()) == 8
    assert site.begun <= PLACES
