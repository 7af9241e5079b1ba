"""The chunks of a dead worker are published again once its death is certain."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from celery import Celery
from sqlalchemy import Engine, event, select

from contract.broker.message import ChunkMessage
from contract.chunks.reap import MOST_DEATHS
from contract.database.engine import reading
from contract.database.tables import workers
from contract.flow import FIRST_CHUNK_IMAGES
from contract.settings import Settings
from producer.dispatcher.publish import publish
from producer.dispatcher.reap import Reaper
from tests.integration.dispatching import (
    WITHIN_S,
    Clock,
    add_worker,
    change_chunks,
    change_worker,
    chunk_of,
    claim_as,
    in_mid_transaction,
    on_postgresql,
    states,
    submit_chunks,
    take,
)

ReachFor = Callable[[float], int]
LEASE_S = 30.0
PAUSE_S = 15.0


@pytest.fixture
def reaper(clock: Clock) -> Reaper:
    return Reaper(LEASE_S, pause_s=PAUSE_S)


@pytest.fixture
def reach_for(reaper: Reaper, engine: Engine, clock: Clock) -> ReachFor:
    """A function that reaps once a second for so long, and returns how many chunks it took back."""

    def reach(seconds: float) -> int:
        reaped = reaper.reap(engine)
        for _ in range(int(seconds)):
            clock.seconds += 1
            reaped += reaper.reap(engine)
        return reaped

    return reach


def run_on(engine: Engine, app: Celery, settings: Settings, *names: str) -> list[ChunkMessage]:
    """Submit a job with one chunk for each worker, and let the workers claim them in order."""
    submit_chunks(engine, len(names))
    publish(engine, app, settings)
    messages = [take(app).message for _ in names]
    for name, message in zip(names, messages, strict=True):
        assert claim_as(engine, name, message) is not None
    return messages


def names_of_workers(engine: Engine) -> set[str]:
    with reading(engine) as connection:
        return set(connection.scalars(select(workers.c.name)))


def test_a_dead_workers_chunk_is_published_again_and_the_death_counted(
    engine: Engine, app: Celery, settings: Settings, caplog, reach_for: ReachFor
) -> None:
    add_worker(engine, "dead", age_s=LEASE_S + 1)
    add_worker(engine, "alive", age_s=5)
    of_dead, of_alive = run_on(engine, app, settings, "dead", "alive")
    caplog.set_level(logging.WARNING)

    assert reach_for(LEASE_S) == 1

    chunk = chunk_of(engine, of_dead.job_number, of_dead.chunk)
    assert (chunk.state, chunk.worker, chunk.deaths) == ("pending", None, 1)
    assert chunk.due_at <= chunk.now
    chunk = chunk_of(engine, of_alive.job_number, of_alive.chunk)
    assert (chunk.state, chunk.worker, chunk.deaths) == ("running", "alive", 0)
    assert "Publishing its 1 chunks again" in caplog.text

    assert publish(engine, app, settings) == 1
    again = take(app).message
    assert (again.chunk, again.generation) == (of_dead.chunk, 2)
    assert claim_as(engine, "alive", again).attempt == 1, "a death costs no attempt"


def test_a_chunk_is_taken_back_once_for_each_death(
    engine: Engine, app: Celery, settings: Settings, reaper: Reaper, reach_for: ReachFor
) -> None:
    (message,) = run_on(engine, app, settings, "first")
    assert reach_for(2 * LEASE_S) == 1
    publish(engine, app, settings)
    assert claim_as(engine, "second", take(app).message) is not None
    assert reaper.reap(engine) == 1
    assert chunk_of(engine, message.job_number).deaths == 2


def test_a_recorded_crash_is_acted_on_at_once(
    engine: Engine, app: Celery, settings: Settings, reach_for: ReachFor
) -> None:
    (message,) = run_on(engine, app, settings, "crashed")
    reach_for(LEASE_S)
    publish(engine, app, settings)
    again = take(app).message
    add_worker(engine, "w2")
    assert claim_as(engine, "w2", again)
    change_worker(engine, "w2", crashed_by="SIGSEGV")
    assert reach_for(0) == 1
    assert chunk_of(engine, message.job_number).deaths == 2
    assert reach_for(0) == 0
    assert names_of_workers(engine) == set()


def test_deaths_are_counted_up_to_a_limit(
    engine: Engine, app: Celery, settings: Settings, reach_for: ReachFor
) -> None:
    (message,) = run_on(engine, app, settings, "dead")
    change_chunks(engine, message.job_number, deaths=MOST_DEATHS)
    assert reach_for(LEASE_S) == 1
    assert chunk_of(engine, message.job_number).deaths == MOST_DEATHS


def test_a_worker_without_a_row_is_dead(
    engine: Engine, app: Celery, settings: Settings, reach_for: ReachFor
) -> None:
    add_worker(engine, "another")
    run_on(engine, app, settings, "unknown")
    assert reach_for(LEASE_S) == 1


def test_chunks_that_do_not_run_are_left_alone(
    engine: Engine, app: Celery, settings: Settings, reach_for: ReachFor
) -> None:
    job = submit_chunks(engine, 10, images=FIRST_CHUNK_IMAGES)
    publish(engine, app, settings)
    before = states(engine, job)
    assert set(before) == {"queued", "pending"}
    assert reach_for(LEASE_S) == 0
    assert states(engine, job) == before


def test_a_dead_workers_row_is_deleted_and_a_live_ones_kept(
    engine: Engine, app: Celery, settings: Settings, reach_for: ReachFor
) -> None:
    for name, age_s in (("idle and dead", LEASE_S + 1), ("dead", LEASE_S + 1), ("alive", 0)):
        add_worker(engine, name, age_s=age_s)
    run_on(engine, app, settings, "dead", "alive")
    reach_for(LEASE_S)
    assert names_of_workers(engine) == {"alive"}


# A dispatcher reaps only after it has itself reached the database for a whole lease.


@pytest.fixture
def dead(engine: Engine, app: Celery, settings: Settings) -> ChunkMessage:
    """The message of a chunk that runs in a worker without a heartbeat."""
    (message,) = run_on(engine, app, settings, "dead")
    return message


def test_no_worker_is_reaped_before_the_dispatcher_has_reached_sql_for_a_lease(
    engine: Engine, dead, reaper: Reaper, clock: Clock, reach_for: ReachFor
) -> None:
    assert reach_for(LEASE_S - 1) == 0
    clock.seconds += 1
    assert reaper.reap(engine) == 1


def test_after_a_database_outage_workers_have_a_whole_lease_again(
    engine: Engine, dead, reaper: Reaper, clock: Clock, reach_for: ReachFor
) -> None:
    reach_for(LEASE_S - 1)
    reaper.forget()
    assert reach_for(LEASE_S - 1) == 0
    clock.seconds += 1
    assert reaper.reap(engine) == 1


def test_after_a_pause_of_the_database_workers_have_a_whole_lease_again(
    engine: Engine, dead, reaper: Reaper, clock: Clock, reach_for: ReachFor
) -> None:
    """The database gave no error, but kept heartbeats waiting as well as the dispatcher."""
    reach_for(LEASE_S - 1)
    clock.seconds += PAUSE_S + 1
    assert reach_for(LEASE_S - 1) == 0
    clock.seconds += 1
    assert reaper.reap(engine) == 1


def test_a_reap_during_which_the_database_paused_is_rolled_back(
    engine: Engine, dead: ChunkMessage, reaper: Reaper, clock: Clock, reach_for: ReachFor
) -> None:
    add_worker(engine, "idle and dead", age_s=LEASE_S + 1)
    reach_for(LEASE_S - 1)

    @event.listens_for(engine, "before_cursor_execute")
    def stand_still(*_: object) -> None:
        clock.seconds += PAUSE_S + 1

    clock.seconds += 1
    assert reaper.reap(engine) == 0
    event.remove(engine, "before_cursor_execute", stand_still)
    assert states(engine, dead.job_number) == ["running"]
    assert names_of_workers(engine) == {"idle and dead"}
    assert reach_for(LEASE_S) == 1


@on_postgresql  # SQLite has one writer
def test_a_worker_that_hangs_in_mid_transaction_delays_no_other_chunk(
    engine: Engine, app: Celery, settings: Settings, reach_for: ReachFor
) -> None:
    hangs, other = run_on(engine, app, settings, "hangs", "dead")
    add_worker(engine, "idle and hangs", age_s=LEASE_S + 1)
    with ThreadPoolExecutor(1) as pool, in_mid_transaction(engine, hangs):
        assert pool.submit(reach_for, LEASE_S).result(WITHIN_S) == 1
        assert chunk_of(engine, other.job_number, other.chunk).state == "pending"
    assert reach_for(0) == 1
    assert names_of_workers(engine) == set()
