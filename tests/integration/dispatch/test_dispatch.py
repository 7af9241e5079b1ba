"""The dispatcher as a process: it feeds Redis, waits out outages, and stops."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import Engine, insert

from contract.broker.connection import make_celery
from contract.database.engine import make_engine
from contract.database.tables import tallies
from contract.settings import Settings
from tests.integration.dispatcher import Dispatch
from tests.integration.dispatching import (
    change_chunks,
    job_of,
    on_broker,
    on_postgresql,
    states,
    submit_chunks,
    take,
    until,
    waiting,
)
from worker.embedded.valkey import Valkey


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Dispatch]]:
    """A function that starts dispatchers and waits until they are ready. They end with the test."""
    started: list[Dispatch] = []

    def start_one(settings: Settings, **variables: str) -> Dispatch:
        log = tmp_path / f"dispatch-{len(started)}.log"
        started.append(Dispatch(settings, log, **variables))
        started[-1].await_words(" ready: ")
        return started[-1]

    yield start_one
    for dispatcher in started:
        dispatcher.process.kill()
        dispatcher.process.wait()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_and_its_messages_stay(
    engine: Engine, app: Celery, settings: Settings, start, how: signal.Signals
) -> None:
    dispatcher = start(settings)
    job = submit_chunks(engine, 3)
    until(lambda: len(waiting(app)) == 3)
    assert dispatcher.stop(how) == 0, dispatcher.said
    assert states(engine, job) == ["queued"] * 3
    assert len(waiting(app)) == 3
    assert "Traceback" not in dispatcher.said


def test_two_dispatchers_do_the_work_of_one(
    engine: Engine, app: Celery, settings: Settings, start
) -> None:
    dispatchers = [start(settings) for _ in range(2)]
    job = submit_chunks(engine, 40)
    sent = [until(lambda: waiting(app) and take(app)) for _ in range(8)]
    assert len({each.run for each in sent}) == 8
    add_tallies(engine, job, 40)
    until(lambda: job_of(engine, job).state == "completed")
    assert job_of(engine, job).classified == 40
    assert [dispatcher.stop() for dispatcher in dispatchers] == [0, 0]
    said = "".join(dispatcher.said for dispatcher in dispatchers)
    assert said.count("is completed") == 1
    assert "ERROR" not in said


def add_tallies(engine: Engine, job: int, number: int) -> None:
    row: dict[str, Any] = {"job_number": job, "classified": 1, "failed": 0, "errors": {}}
    with engine.begin() as connection:
        connection.execute(insert(tallies), [row] * number)


def test_without_redis_results_are_counted_and_dead_workers_found(
    engine: Engine, settings: Settings, mortal_valkey: Valkey, start
) -> None:
    settings = on_broker(settings, mortal_valkey.url)
    dispatcher = start(settings, LEASE_S="1")
    mortal_valkey.kill()
    counted, ran, waits = (submit_chunks(engine, 1) for _ in range(3))
    change_chunks(engine, ran, state="running", worker="dead")
    dispatcher.await_words("Redis does not answer")

    add_tallies(engine, counted, 1)
    until(lambda: job_of(engine, counted).state == "completed", lambda: dispatcher.said)
    until(lambda: states(engine, ran) == ["pending"], lambda: dispatcher.said)
    assert "is back" not in dispatcher.said

    mortal_valkey.start()
    dispatcher.await_words("Redis is back after")
    app = make_celery(settings)
    until(lambda: waits in {sent.message.job_number for sent in waiting(app)})
    app.close()
    assert dispatcher.stop() == 0
    assert dispatcher.said.count("Redis does not answer") == 1
    assert dispatcher.said.count("is back") == 1
    assert "Traceback" not in dispatcher.said


def test_a_signal_ends_a_command_that_waits_for_redis(
    engine: Engine, settings: Settings, mortal_valkey: Valkey, start
) -> None:
    dispatcher = start(on_broker(settings, mortal_valkey.url))
    mortal_valkey.kill()
    submit_chunks(engine, 1)
    dispatcher.await_words("Redis does not answer")
    assert dispatcher.stop() == 0


@on_postgresql  # SQLite is a file: it has no outages
def test_a_database_outage_is_waited_out_and_logged_once(
    app: Celery, settings: Settings, set_reachable, start
) -> None:
    dispatcher = start(settings)
    set_reachable(reachable=False)
    dispatcher.await_words("The database does not answer")
    assert dispatcher.process.poll() is None

    set_reachable(reachable=True)
    dispatcher.await_words("The database is back after")
    engine = make_engine(settings.database())
    submit_chunks(engine, 3)
    until(lambda: len(waiting(app)) == 3)
    engine.dispose()
    assert dispatcher.stop() == 0
    assert dispatcher.said.count("does not answer") == 1
    assert dispatcher.said.count("is back") == 1
    assert "Traceback" not in dispatcher.said


@on_postgresql
def test_a_signal_ends_a_command_that_waits_for_the_database(
    settings: Settings, set_reachable, start
) -> None:
    dispatcher = start(settings)
    set_reachable(reachable=False)
    dispatcher.await_words("The database does not answer")
    assert dispatcher.stop() == 0
