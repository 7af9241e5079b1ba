"""A dispatcher's metrics, on both databases: its own counts and those of the fleet."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import Engine, event, text

from contract.broker.connection import make_celery, queue_of
from contract.database.clock import db_now
from contract.database.engine import make_engine, reading
from contract.settings import Settings
from producer.dispatcher import fleet as fleet_module
from producer.dispatcher import metrics as metrics_module
from producer.dispatcher.count import fold
from producer.dispatcher.fleet import JOB_STATES, OTHERS, Fleet, read_fleet
from producer.dispatcher.loop import Dispatcher
from producer.dispatcher.metrics import METRICS, OF_THE_FLEET, DispatcherCollector, Metrics
from producer.dispatcher.publish import publish
from tests.integration.dispatcher import Dispatch
from tests.integration.dispatching import (
    QUEUE,
    WITHIN_S,
    Clock,
    add_worker,
    change_chunks,
    change_job,
    change_worker,
    claim_as,
    on_broker,
    states,
    submit_chunks,
    take,
    until,
)
from tests.metrics import names, samples, shown_by
from tests.tallies import tally

LEASE_S = 30.0
OTHER_QUEUE = queue_of("resnext50_32x4d", "random", "amp")
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def read(engine: Engine) -> Fleet:
    with reading(engine) as connection:
        return read_fleet(connection, LEASE_S)


def test_jobs_are_counted_by_state(engine: Engine) -> None:
    for state in ("running", "running", "completed", "cancelled", "abandoned"):
        change_job(engine, submit_chunks(engine, 1), state=state)
    counted = {"running": 2, "completed": 1, "cancelled": 1, "abandoned": 1}
    assert read(engine).jobs == dict.fromkeys(JOB_STATES, 0) | counted


def test_jobs_of_a_state_are_counted_up_to_a_limit(engine: Engine, monkeypatch) -> None:
    monkeypatch.setattr(fleet_module, "MOST_JOBS", 2)
    for _ in range(3):
        submit_chunks(engine, 1)
    assert read(engine).jobs["running"] == 2


def test_the_rest_of_running_jobs_is_pending_by_queue(engine: Engine) -> None:
    first = submit_chunks(engine, 3, images=4)
    submit_chunks(engine, 5)
    submit_chunks(engine, 7, model="resnext50_32x4d", weights="random")
    change_job(engine, first, classified=2, failed=1)
    change_job(engine, submit_chunks(engine, 9), paused_at=db_now())
    change_job(engine, submit_chunks(engine, 9), state="cancelled")
    queues = read(engine).queues
    assert {name: queue.pending_images for name, queue in queues.items()} == {
        QUEUE: 9 + 5,
        OTHER_QUEUE: 7,
    }
    assert queues[QUEUE].chunks["pending"] == 3 + 5, "paused and cancelled jobs do not count"


def test_chunks_are_counted_by_state(engine: Engine, app: Celery, settings: Settings) -> None:
    add_worker(engine, "w", images_per_s=1e6)
    job = submit_chunks(engine, 5)
    change_chunks(engine, job, 3, 4, due_at=db_now(3600))
    publish(engine, app, settings)
    assert claim_as(engine, "w", take(app).message) is not None
    assert read(engine).queues[QUEUE].chunks == {"pending": 2, "queued": 2, "running": 1}


def test_the_age_is_that_of_the_oldest_due_chunk(engine: Engine) -> None:
    job = submit_chunks(engine, 3)
    change_chunks(engine, job, due_at=db_now(3600))
    assert read(engine).queues[QUEUE].oldest_due_s == 0.0, "none is due"
    change_chunks(engine, job, 0, due_at=db_now(-100))
    change_chunks(engine, job, 2, due_at=db_now(-900))
    younger = submit_chunks(engine, 3)
    change_chunks(engine, younger, due_at=db_now(-10))
    assert read(engine).queues[QUEUE].oldest_due_s == pytest.approx(900, abs=60)


def test_live_workers_that_take_chunks_are_counted(engine: Engine) -> None:
    for name in ("first", "second", "stopping", "crashed"):
        add_worker(engine, name)
    add_worker(engine, "silent", age_s=LEASE_S + 1)
    add_worker(engine, "other", queue=OTHER_QUEUE)
    change_worker(engine, "stopping", stopping=True)
    change_worker(engine, "crashed", crashed_by="SIGSEGV")
    queues = read(engine).queues
    assert {name: queue.workers for name, queue in queues.items()} == {QUEUE: 2, OTHER_QUEUE: 1}


def test_a_queue_without_workers_is_shown(engine: Engine) -> None:
    submit_chunks(engine, 1)
    assert read(engine).queues[QUEUE].workers == 0


def test_queues_beyond_the_limit_are_shown_as_one(engine: Engine, monkeypatch) -> None:
    """A client may ask for any weights, and each weights name has its own queue."""
    monkeypatch.setattr(fleet_module, "MOST_QUEUES", 2)
    for n in range(1, 6):
        submit_chunks(engine, n, weights=f"/models/w{n}.pth")
    add_worker(engine, "w", queue=queue_of("resnext101_32x4d", "/models/w1.pth", "amp"))
    queues = read(engine).queues
    assert len(queues) == 3
    assert sorted(queue.pending_images for queue in queues.values()) == [4, 5, 6]
    assert queues[OTHERS].pending_images == 1 + 2 + 3
    assert queues[OTHERS].chunks["pending"] == 1 + 2 + 3
    assert queues[OTHERS].workers == 1


def test_pending_chunks_are_counted_up_to_a_limit(engine: Engine, monkeypatch) -> None:
    monkeypatch.setattr(fleet_module, "MOST_PENDING_CHUNKS", 6)
    for _ in range(2):
        submit_chunks(engine, 100)
    assert read(engine).queues[QUEUE].chunks["pending"] == 6
    assert read(engine).queues[QUEUE].pending_images == 200


def test_chunks_are_counted_for_a_limited_number_of_jobs(engine: Engine, monkeypatch) -> None:
    monkeypatch.setattr(fleet_module, "MOST_JOBS_LOOKED_AT", 2)
    for chunks in (1, 2, 4):
        submit_chunks(engine, chunks)
    assert read(engine).queues[QUEUE].chunks["pending"] == 3, "the oldest jobs count"


@on_sqlite
def test_no_large_table_is_scanned(engine: Engine) -> None:
    submit_chunks(engine, 10)
    add_worker(engine, "w")
    executed: list[tuple[str, object]] = []
    event.listen(
        engine, "before_cursor_execute", lambda *given: executed.append((given[2], given[3]))
    )
    read(engine)
    asked = [(sql, values) for sql, values in executed if sql.startswith("SELECT")]
    assert len(asked) == 5
    plans = []
    with engine.connect() as connection:
        for sql, values in asked:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)
            plans += [row.detail for row in plan]
    scanned = {plan.split()[1] for plan in plans if plan.startswith("SCAN")}
    tables = {name for name in scanned if not name.startswith("anon_")}  # limited subqueries
    assert tables <= {"workers", "CONSTANT"}, plans
    assert not any("results" in sql for sql, _ in asked)


def test_the_time_of_the_last_store_is_kept_by_queue(engine: Engine) -> None:
    metrics = Metrics(clock=lambda: 1234.5)
    job, other = submit_chunks(engine, 5), submit_chunks(engine, 5, weights="random")
    fold(engine, when_stored=metrics.note_stored)
    tally(engine, job, -1, dns=0)  # from a retry
    change_job(engine, other, state="cancelled")
    tally(engine, other, 0, cancelled=1)
    fold(engine, when_stored=metrics.note_stored)
    assert metrics.last_stored() == {}
    tally(engine, job, 2, dns=1)
    fold(engine, when_stored=metrics.note_stored)
    assert metrics.last_stored() == {(QUEUE,): 1234.5}


def test_times_are_kept_for_a_limited_number_of_queues(monkeypatch) -> None:
    monkeypatch.setattr(metrics_module, "MOST_QUEUES", 2)
    times = iter([1.0, 2.0, 3.0, 4.0])
    metrics = Metrics(clock=lambda: next(times))
    for queue in ("a", "b", "a", "c"):
        metrics.note_stored([queue])
    assert metrics.last_stored() == {("a",): 3.0, ("c",): 4.0}


def test_published_reaped_and_lost_chunks_are_counted(
    engine: Engine, app: Celery, settings: Settings, clock: Clock
) -> None:
    metrics = Metrics()
    dispatcher = Dispatcher(engine, app, settings, metrics)

    def counted() -> list[object]:
        names = ("published", "reaped", "lost")
        return [metrics.read()[f"resnext_{name}_chunks_total"] for name in names]

    add_worker(engine, "dead", images_per_s=1e6)
    submit_chunks(engine, 3)
    dispatcher.tick()
    assert counted() == [{(): 3}, {(): 0}, {(): 0}]
    assert claim_as(engine, "dead", take(app).message) is not None
    for _ in range(2):
        take(app)  # and never claim it
    change_worker(engine, "dead", heartbeat_at=db_now(-2 * settings.lease_s))
    for _ in range(int(settings.lease_s) + 2):
        clock.seconds += 1
        dispatcher.tick()
    assert counted() == [{(): 6}, {(): 1}, {(): 2}]


def shown(collector: DispatcherCollector) -> str:
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry).decode()


@pytest.fixture
def leading() -> Metrics:
    metrics = Metrics()
    metrics.note_tick(0.01, leads=True)
    return metrics


def test_a_leader_shows_every_metric(
    engine: Engine, app: Celery, settings: Settings, leading: Metrics
) -> None:
    leading.note_stored([QUEUE])
    submit_chunks(engine, 1)
    text = shown(DispatcherCollector(leading, engine, app, lease_s=LEASE_S))
    assert names(text) == set(METRICS)
    found = samples(text)
    assert found[f"resnext_pending_images {QUEUE}"] == 1
    assert found[f"resnext_broker_messages {QUEUE}"] == 0
    assert found["resnext_dispatch_tick_seconds_count"] == 1


def test_a_standby_shows_only_its_own_metrics(engine: Engine, app: Celery) -> None:
    standby = Metrics()
    standby.note_tick(0.01, leads=False)
    found = names(shown(DispatcherCollector(standby, engine, app, lease_s=LEASE_S)))
    assert found == set(METRICS) - set(OF_THE_FLEET)


def test_without_redis_all_other_metrics_are_shown(
    engine: Engine, settings: Settings, leading: Metrics
) -> None:
    app = make_celery(on_broker(settings, "redis://127.0.0.1:1/0"))
    at_once = {"max_retries": 1, "interval_start": 0}  # like the dispatcher's app
    app.conf.broker_transport_options = app.conf.broker_transport_options | at_once
    submit_chunks(engine, 1)
    text = shown(DispatcherCollector(leading, engine, app, lease_s=LEASE_S))
    assert set(METRICS) - names(text) == {"resnext_broker_messages"}
    app.close()


def test_without_the_database_only_its_own_metrics_are_shown(app: Celery, leading: Metrics) -> None:
    away = make_engine("postgresql+psycopg://127.0.0.1:1/none")
    found = names(shown(DispatcherCollector(leading, away, app, lease_s=LEASE_S)))
    assert found == set(METRICS) - set(OF_THE_FLEET)


def test_a_dispatcher_that_cannot_reach_the_database_does_not_lead(
    app: Celery, settings: Settings
) -> None:
    metrics, stop = Metrics(), threading.Event()
    away = make_engine("postgresql+psycopg://127.0.0.1:1/none")
    dispatcher = Dispatcher(away, app, settings, metrics)
    dispatcher._leads = True  # it led until now
    thread = threading.Thread(target=dispatcher.run, args=(stop,))
    thread.start()
    until(lambda: metrics.read()["resnext_dispatch_tick_seconds"].count >= 1)
    assert not metrics.leads
    stop.set()
    thread.join(WITHIN_S)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_that_hangs_delays_a_scrape_only_briefly(
    engine: Engine, app: Celery, leading: Metrics, monkeypatch
) -> None:
    """Here the database hangs on a migration's lock."""
    monkeypatch.setattr(fleet_module, "WITHIN_S", 0.2)
    collector = DispatcherCollector(leading, engine, app, lease_s=LEASE_S)
    with engine.begin() as connection:
        connection.execute(text("LOCK TABLE chunks IN ACCESS EXCLUSIVE MODE"))
        submit = names(shown(collector))
    assert submit == set(METRICS) - set(OF_THE_FLEET)


def test_frequent_scrapes_read_sql_once(engine: Engine, app: Celery, leading: Metrics) -> None:
    executed: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *given: executed.append(given[2]))
    collector = DispatcherCollector(leading, engine, app, lease_s=LEASE_S)
    shown(collector)
    once = len(executed)
    assert once
    shown(collector)
    assert len(executed) == once


@pytest.fixture
def two(settings: Settings, tmp_path: Path) -> Iterator[tuple[Dispatch, Dispatch]]:
    """Two dispatchers. The first one leads."""
    started: list[Dispatch] = []
    for words in (" leading as ", " standing by: "):
        log = tmp_path / f"dispatch-{len(started)}.log"
        started.append(Dispatch(settings, log, METRICS_PORT="0"))
        started[-1].await_words(words)
    yield started[0], started[1]
    for dispatcher in started:
        dispatcher.process.kill()
        dispatcher.process.wait()


def test_leader_and_standby_are_scraped_and_the_standby_takes_over(
    engine: Engine, two: tuple[Dispatch, Dispatch]
) -> None:
    leader, standby = two

    def leading_of(dispatcher: Dispatch) -> float:
        return samples(shown_by(dispatcher.said))["resnext_dispatcher_leading"]

    until(lambda: leading_of(leader) == 1.0)
    assert leading_of(standby) == 0.0
    job = submit_chunks(engine, 2)
    until(lambda: states(engine, job) == ["queued"] * 2)
    until(lambda: samples(shown_by(leader.said)).get(f"resnext_broker_messages {QUEUE}") == 2)
    assert samples(shown_by(leader.said))["resnext_published_chunks_total"] == 2
    assert "resnext_pending_images" not in shown_by(standby.said)
    leader.stop(signal.SIGTERM)
    until(lambda: leading_of(standby) == 1.0)
    found = samples(shown_by(standby.said))
    assert found[f"resnext_pending_images {QUEUE}"] == 2
    assert found["resnext_published_chunks_total"] == 0, "each process has its own counts"
    assert found["process_start_time_seconds"] <= time.time()


@on_sqlite
def test_a_port_that_is_taken_is_reported(settings: Settings, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        dispatcher = Dispatch(settings, tmp_path / "log", METRICS_PORT=port)
        assert dispatcher.process.wait(WITHIN_S) == 3
    assert f"The metrics cannot be served on 127.0.0.1:{port}: " in dispatcher.said
    assert "Set RESNEXT_METRICS_PORT to a free port" in dispatcher.said
    assert "Traceback" not in dispatcher.said
