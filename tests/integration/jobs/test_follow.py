"""`results --follow` prints each image once, as it finishes, until the job has ended."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import Engine

from contract.database.engine import reading
from contract.errors import UsageError
from contract.settings import Settings
from producer.dispatcher.count import fold
from producer.dispatcher.publish import publish
from producer.jobs.export import follow as following
from producer.jobs.export.choice import Choice
from producer.jobs.export.export import Export, Written
from producer.jobs.export.sinks import Target, target_of
from producer.jobs.job import Job, find_job
from producer.jobs.retry import retry
from tests.integration.dispatching import WITHIN_S, job_of, until
from tests.integration.ending import CLASSIFIED, IMAGES, claim_next, failed, store, submit_job

CHUNKS = 3


@pytest.fixture
def number(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(following, "POLL_S", 0.01)
    return submit_job(engine, CHUNKS)


def read_job(engine: Engine, number: int) -> Job:
    with reading(engine) as connection:
        return find_job(connection, job_of(engine, number).id)


class Log:
    """The output of a follower so far."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    @contextmanager
    def writing(self, name: str) -> Iterator[Log]:
        del name
        yield self

    def write(self, data: bytes) -> None:
        self.lines += map(json.loads, data.decode().splitlines())

    def flush(self) -> None:
        pass

    @property
    def positions(self) -> list[int]:
        return [line["position"] for line in self.lines]


def start(engine: Engine, number: int, **options: Any) -> tuple[Log, threading.Thread]:
    log = Log()
    export = Export(
        engine=engine, job=read_job(engine, number), form="jsonl", follow=True, **options
    )
    thread = threading.Thread(target=lambda: export.write(Target("log", log, "log")), daemon=True)
    thread.start()
    return log, thread


def test_each_image_is_printed_once_as_it_finishes(
    engine: Engine, app: Celery, settings: Settings, number: int
) -> None:
    log, thread = start(engine, number)
    publish(engine, app, settings)
    claims = [claim_next(engine, app) for _ in range(CHUNKS)]
    for at, claimed in enumerate(claims):
        store(engine, claimed, [CLASSIFIED] * (IMAGES - 1) + [failed("http_404")])
        until(lambda: len(log.lines) == IMAGES * (at + 1))  # noqa: B023  (waited for at once)
        assert set(log.positions[-IMAGES:]) == set(claimed.images)
    fold(engine)
    thread.join(WITHIN_S)
    assert not thread.is_alive()
    assert sorted(log.positions) == list(range(CHUNKS * IMAGES))


def test_only_chosen_images_are_printed(
    engine: Engine, app: Celery, settings: Settings, number: int
) -> None:
    log, thread = start(engine, number, choice=Choice(only="failed", after=IMAGES - 1))
    publish(engine, app, settings)
    for _ in range(CHUNKS):
        store(engine, claim_next(engine, app), [failed("http_404")] + [CLASSIFIED] * (IMAGES - 1))
    fold(engine)
    thread.join(WITHIN_S)
    assert sorted(log.positions) == [IMAGES * chunk for chunk in range(1, CHUNKS)]


def test_retried_images_are_printed_again(
    engine: Engine, app: Celery, settings: Settings, number: int
) -> None:
    log, thread = start(engine, number)
    publish(engine, app, settings)
    claims = [claim_next(engine, app) for _ in range(CHUNKS)]
    store(engine, claims[0], [failed("http_404")] * IMAGES)
    until(lambda: len(log.lines) == IMAGES)
    assert retry(engine, job_of(engine, number).id).images == IMAGES
    looked = threading.Event()
    look = following.Follower._look
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(following.Follower, "_look", lambda *given: (look(*given), looked.set())[0])
        until(looked.is_set)
    publish(engine, app, settings)
    for claimed in (*claims[1:], claim_next(engine, app)):
        store(engine, claimed, [CLASSIFIED] * IMAGES)
    fold(engine)
    thread.join(WITHIN_S)
    assert sorted(log.positions[IMAGES:]) == list(range(CHUNKS * IMAGES))


def test_a_folder_is_not_followed(engine: Engine, number: int, tmp_path: Path) -> None:
    export = Export(engine=engine, job=read_job(engine, number), form="jsonl", follow=True)
    with pytest.raises(UsageError, match="parts by position"):
        export.write(target_of(f"{tmp_path}/out/", Settings()))


def test_following_a_finished_job_ends_at_once(
    engine: Engine, app: Celery, settings: Settings, number: int
) -> None:
    publish(engine, app, settings)
    for _ in range(CHUNKS):
        store(engine, claim_next(engine, app), [CLASSIFIED] * IMAGES)
    fold(engine)
    log = Log()
    export = Export(engine=engine, job=read_job(engine, number), form="jsonl", follow=True)
    assert export.write(Target("log", log, "log")) == Written(CHUNKS * IMAGES)
    assert log.positions == list(range(CHUNKS * IMAGES))
