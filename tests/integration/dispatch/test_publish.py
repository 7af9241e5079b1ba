"""From SQL to Redis on both databases: due chunks are queued once, if there is a free place."""

from __future__ import annotations

import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis.exceptions
from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy import Engine

from contract import remaining
from contract.broker.connection import make_celery, queue_of
from contract.chunks import later
from contract.database.clock import db_now
from contract.flow import CHUNKS_A_WORKER
from contract.settings import Settings
from producer.dispatcher.publish import publish
from producer.dispatcher.unclaimed import Lost
from tests.integration.dispatching import (
    add_worker,
    change_chunks,
    change_job,
    chunk_of,
    claim_as,
    on_broker,
    states,
    submit_chunks,
    take,
    until,
    waiting,
)
from worker.embedded.valkey import Valkey


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A worker of n images/s gives a window of n chunks, if that exceeds the least window."""
    return settings.model_copy(update={"window_s": 1.0, "chunk_images": 1})


def test_a_due_chunk_is_queued_and_its_message_sent(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    job = submit_chunks(engine, 2, images=3)
    change_chunks(engine, job, 1, generation=4, worker="w0")

    assert publish(engine, app, settings) == 2

    sent = {each.message.chunk: each for each in waiting(app)}
    assert set(sent) == {0, 1}
    chunk = chunk_of(engine, job, 1)
    assert (chunk.state, chunk.generation, chunk.worker) == ("queued", 5, None)
    message = sent[1].message
    assert (message.job_number, message.generation) == (job, 5)
    assert (message.images, message.positions, message.uris) == (3, (), ())
    assert sent[1].published_at == chunk.published_at
    claimed = claim_as(engine, "w1", message)
    assert {position: image.uri for position, image in claimed.images.items()} == {
        n: f"https://a.example/{n}.jpg" for n in (3, 4, 5)
    }


def test_only_unfinished_images_are_sent(engine: Engine, app: Celery, settings: Settings) -> None:
    job = submit_chunks(engine, 2, images=10)
    change_chunks(engine, job, 0, state="done", remaining=b"", remaining_images=0)
    change_chunks(engine, job, 1, remaining=remaining.encode({1, 8}), remaining_images=2)

    publish(engine, app, settings)

    (sent,) = waiting(app)
    assert sent.message.images == 2
    claimed = claim_as(engine, "w1", sent.message)
    assert {position: image.uri for position, image in claimed.images.items()} == {
        n: f"https://a.example/{n}.jpg" for n in (11, 18)
    }


def test_images_that_are_due_later_are_not_claimed(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    job = submit_chunks(engine, 1, images=5)
    change_chunks(engine, job, 0, later=later.encode([later.Group(2e9, 1, (0, 3))]))
    publish(engine, app, settings)
    (sent,) = waiting(app)
    assert sent.message.images == 3
    assert sorted(claim_as(engine, "w1", sent.message).images) == [1, 2, 4]


def test_flower_shows_a_messages_chunk_and_no_uri(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    submit_chunks(engine, 1, images=3)
    publish(engine, app, settings)
    (sent,) = waiting(app)
    assert (sent.headers["argsrepr"], sent.headers["kwargsrepr"]) == (
        "",
        f"job={sent.message.job} chunk=0 generation=1 images=3",
    )
    assert "a.example" not in json.dumps(sent.headers)


def test_chunks_that_are_not_due_and_those_of_other_jobs_stay(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    job = submit_chunks(engine, 5)
    change_chunks(engine, job, 0, due_at=db_now(3600))
    for number, state in enumerate(("queued", "running", "done"), start=1):
        change_chunks(engine, job, number, state=state)
    for state in ("submitting", "completed", "cancelled", "expired"):
        change_job(engine, submit_chunks(engine, 1), state=state)

    assert publish(engine, app, settings) == 1
    assert [sent.run for sent in waiting(app)] == [(job, 4, 1)]
    assert states(engine, job) == ["pending", "queued", "running", "done", "queued"]


def test_chunks_are_published_in_shuffled_order(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    """Neighbours in a crawl share a host, and would all be fetched together."""
    job = submit_chunks(engine, 20)
    order = [(7 * n + 3) % 20 for n in range(20)]
    for rank, chunk in enumerate(order):
        change_chunks(engine, job, chunk, shuffle=rank)
    publish(engine, app, settings)
    assert [sent.message.chunk for sent in waiting(app)] == order[:CHUNKS_A_WORKER]


# The window


def test_without_a_known_rate_each_worker_gets_a_few_chunks(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    submit_chunks(engine, 3 * CHUNKS_A_WORKER)
    assert publish(engine, app, settings) == CHUNKS_A_WORKER, "for a worker that may start"
    add_worker(engine, "w1")
    add_worker(engine, "dead", age_s=settings.lease_s + 60, images_per_s=1e6)
    add_worker(engine, "other", queue="other", images_per_s=1e6)
    assert publish(engine, app, settings) == 0
    add_worker(engine, "w2")
    assert publish(engine, app, settings) == CHUNKS_A_WORKER
    assert len(waiting(app)) == 2 * CHUNKS_A_WORKER


def test_the_window_is_some_seconds_of_the_fleets_work(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    submit_chunks(engine, 100)
    add_worker(engine, "w1", images_per_s=20.0)
    add_worker(engine, "w2", images_per_s=9.5)
    assert publish(engine, app, settings) == 30
    assert publish(engine, app, settings) == 0
    for _ in range(3):
        assert claim_as(engine, "w1", take(app).message) is not None
    assert publish(engine, app, settings) == 3


def test_the_window_is_counted_in_images(engine: Engine, app: Celery, settings: Settings) -> None:
    """Retried chunks may have few images left, so more of them fit into the window."""
    job = submit_chunks(engine, 100, images=10)
    for chunk in range(60):
        change_chunks(engine, job, chunk, remaining=remaining.encode({3}), remaining_images=1)
        change_chunks(engine, job, chunk, shuffle=-1)
    add_worker(engine, "w1", images_per_s=30.0)
    assert publish(engine, app, settings) == 30
    assert {sent.message.images for sent in waiting(app)} == {1}
    for _ in range(30):
        take(app)
    whole = {"remaining": remaining.all_of(10), "remaining_images": 10, "state": "pending"}
    change_chunks(engine, job, shuffle=0, **whole)
    change_chunks(engine, job, 7, shuffle=-1, remaining=remaining.encode({3}), remaining_images=1)
    assert publish(engine, app, settings) == 5, (
        "one small chunk, and whole ones, which count with their mean size"
    )


def test_if_devices_wait_for_the_network_the_window_follows_the_jobs_rate(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    """A later job must wait for everything in the window."""
    job = submit_chunks(engine, 100)
    add_worker(engine, "w1", images_per_s=1000.0)
    change_job(engine, job, images_per_s=20.0)
    assert publish(engine, app, settings) == 20
    change_job(engine, job, images_per_s=0.1)
    for _ in range(20):
        take(app)
    change_chunks(engine, job, state="pending")
    assert publish(engine, app, settings) == CHUNKS_A_WORKER, (
        "with fewer the worker could never get faster"
    )


@pytest.mark.parametrize(("images_per_s", "shares"), [(9, [5, 4]), (10, [5, 5])])
def test_jobs_share_the_window_and_the_earlier_one_gets_the_remainder(
    engine: Engine, app: Celery, settings: Settings, images_per_s: int, shares: list[int]
) -> None:
    jobs = [submit_chunks(engine, 30) for _ in range(2)]
    add_worker(engine, "w1", images_per_s=images_per_s)
    publish(engine, app, settings)
    assert [states(engine, job).count("queued") for job in jobs] == shares


def test_the_last_place_goes_to_the_most_urgent_job(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    busy = submit_chunks(engine, CHUNKS_A_WORKER - 1)
    publish(engine, app, settings)
    jobs = [submit_chunks(engine, 2, priority=priority) for priority in (0, 7, 3)]
    assert publish(engine, app, settings) == 1
    assert [states(engine, job).count("queued") for job in jobs] == [0, 1, 0]
    assert set(states(engine, busy)) == {"queued"}


def test_each_models_queue_has_its_own_window(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    submit_chunks(engine, 20)
    exact = submit_chunks(engine, 20, precision="fp32")
    publish(engine, app, settings)
    other = waiting(app, queue_of("resnext101_32x4d", "nvidia", "fp32"))
    assert {sent.message.job_number for sent in other} == {exact}
    assert len(waiting(app)) == len(other) == CHUNKS_A_WORKER


# Several dispatchers, and faults


def test_simultaneous_dispatchers_publish_each_generation_once(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    """Meanwhile chunks become pending again, as after retries."""
    job = submit_chunks(engine, 60)
    add_worker(engine, "w1", images_per_s=1000.0)
    rounds_over, barrier = threading.Event(), threading.Barrier(4)

    def dispatch(_: int) -> int:
        own_app, published = make_celery(settings), 0
        barrier.wait()
        while not rounds_over.is_set() or "pending" in states(engine, job):
            published += publish(engine, own_app, settings)
        own_app.close()
        return published

    def bring_back() -> None:
        try:
            for _ in range(5):
                until(lambda: "pending" not in states(engine, job))
                change_chunks(engine, job, *range(0, 60, 2), state="pending")
        finally:
            rounds_over.set()

    with ThreadPoolExecutor(4) as pool:
        dispatchers = [pool.submit(dispatch, n) for n in range(3)]
        barrier.wait()
        bring_back()
        published = sum(dispatcher.result() for dispatcher in dispatchers)

    brought_back = [(job, chunk, n) for chunk in range(0, 60, 2) for n in range(2, 2 + 5)]
    first = [(job, chunk, 1) for chunk in range(60)]
    assert published == len(first) + len(brought_back)
    assert sorted(sent.run for sent in waiting(app)) == sorted(first + brought_back)


def test_if_redis_stops_while_messages_are_sent_the_rest_is_sent_later(
    engine: Engine, settings: Settings, mortal_valkey: Valkey, monkeypatch
) -> None:
    job = submit_chunks(engine, 60)
    add_worker(engine, "w1", images_per_s=60.0)
    app = make_celery(on_broker(settings, mortal_valkey.url))
    send, sent = app.send_task, itertools.count(1)

    def send_until_redis_goes(*arguments: Any, **options: Any) -> None:
        send(*arguments, **options)
        if next(sent) == 20:
            mortal_valkey.kill()

    with monkeypatch.context() as patch:
        patch.setattr(app, "send_task", send_until_redis_goes)
        with pytest.raises((OperationalError, redis.exceptions.RedisError, OSError)):
            publish(engine, app, settings)
    assert set(states(engine, job)) == {"queued"}

    mortal_valkey.start()
    arrived = len(waiting(app))
    assert 0 < arrived <= 20
    for _ in range(arrived):
        assert claim_as(engine, "w1", take(app).message) is not None
    assert until(lambda: Lost(grace_s=0).put_back(engine, app)) == 60 - arrived
    assert publish(engine, app, settings) == 60 - arrived
    assert len({sent.run for sent in waiting(app)}) == 60 - arrived
    app.close()
