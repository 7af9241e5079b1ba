"""Chunks whose messages are lost are published again, and no others, on both databases."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from celery import Celery
from sqlalchemy import Engine

from contract.broker.connection import queue_of, redis_of
from contract.settings import Settings
from producer.dispatcher.publish import publish
from producer.dispatcher.unclaimed import Lost
from tests.integration.dispatching import (
    QUEUE,
    WITHIN_S,
    Clock,
    change_chunks,
    change_job,
    chunk_of,
    claim_as,
    in_mid_transaction,
    on_postgresql,
    states,
    submit_chunks,
    take,
    until,
    waiting,
)


def publish_apart(engine: Engine, app: Celery, settings: Settings, *jobs: int) -> None:
    """Publish the jobs in sequence, each at a different time of the database's clock."""
    for job in jobs:
        change_job(engine, job, state="running")
        publish(engine, app, settings)
        published_at = chunk_of(engine, job).published_at
        until(lambda at=published_at, of=job: chunk_of(engine, of).now > at)


def submit_apart(engine: Engine, number: int) -> list[int]:
    """Submit jobs of one chunk for `publish_apart`."""
    jobs = [submit_chunks(engine, 1) for _ in range(number)]
    for job in jobs:
        change_job(engine, job, state="submitting")
    return jobs


def queued_and_pending(engine: Engine, *jobs: int) -> list[str]:
    return [states(engine, job)[0] for job in jobs]


def test_after_a_flush_of_redis_every_queued_chunk_is_published_again(
    engine: Engine, app: Celery, settings: Settings, caplog
) -> None:
    job = submit_chunks(engine, 5)
    publish(engine, app, settings)
    assert claim_as(engine, "w1", take(app).message) is not None
    until(lambda: chunk_of(engine, job).now > max(s.published_at for s in waiting(app)))
    redis_of(app).flushall()
    caplog.set_level(logging.WARNING)

    assert until(lambda: Lost(grace_s=0).put_back(engine, app)) == 4

    assert sorted(states(engine, job)) == ["pending"] * 4 + ["running"]
    assert f"4 messages of queue {QUEUE} are lost" in caplog.text
    assert publish(engine, app, settings) == 4
    assert {sent.message.generation for sent in waiting(app)} == {2}
    assert all(claim_as(engine, "w2", sent.message) for sent in waiting(app))


def test_an_unclaimed_message_is_lost_once_a_newer_one_is_next(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    first, second, third = jobs = submit_apart(engine, 3)
    publish_apart(engine, app, settings, *jobs)
    stolen = take(app)
    assert stolen.message.job_number == first

    assert Lost(grace_s=0).put_back(engine, app) == 1

    assert queued_and_pending(engine, first, second, third) == ["pending", "queued", "queued"]
    assert claim_as(engine, "slow", stolen.message) is None, "the old message claims nothing"


def test_waiting_messages_are_not_lost(engine: Engine, app: Celery, settings: Settings) -> None:
    jobs = submit_apart(engine, 3)
    publish_apart(engine, app, settings, *jobs)
    lost_messages = Lost(grace_s=0)
    for _ in jobs:
        assert lost_messages.put_back(engine, app) == 0
        assert claim_as(engine, "w1", take(app).message) is not None
    assert lost_messages.put_back(engine, app) == 0
    assert queued_and_pending(engine, *jobs) == ["running"] * 3


def test_a_message_can_be_claimed_within_the_grace_period(
    engine: Engine, app: Celery, settings: Settings, clock: Clock
) -> None:
    job = submit_chunks(engine, 1)
    publish_apart(engine, app, settings, job)
    message = take(app).message
    lost_messages = Lost(grace_s=5)
    for _ in range(3):  # at 0, 2.4 and 4.8 seconds
        assert lost_messages.put_back(engine, app) == 0
        clock.seconds += 2.4
    assert claim_as(engine, "w1", message) is not None
    clock.seconds += 100
    assert lost_messages.put_back(engine, app) == 0
    assert states(engine, job) == ["running"]


def test_an_unclaimed_message_is_lost_after_the_grace_period(
    engine: Engine, app: Celery, settings: Settings, clock: Clock
) -> None:
    job = submit_chunks(engine, 1)
    publish_apart(engine, app, settings, job)
    take(app)
    lost_messages = Lost(grace_s=5)
    assert lost_messages.put_back(engine, app) == 0
    clock.seconds += 5
    assert lost_messages.put_back(engine, app) == 1
    assert states(engine, job) == ["pending"]


def test_a_look_does_not_count_for_messages_published_later(
    engine: Engine, app: Celery, settings: Settings, clock: Clock
) -> None:
    """The queue was empty. Then a message came and was taken, and its own grace period starts."""
    job = submit_chunks(engine, 1)
    lost_messages = Lost(grace_s=5)
    assert lost_messages.put_back(engine, app) == 0
    publish_apart(engine, app, settings, job)
    take(app)
    clock.seconds += 5
    assert lost_messages.put_back(engine, app) == 0
    assert states(engine, job) == ["queued"]


@pytest.mark.parametrize(
    "foreign",
    [
        b"no JSON",
        b"[]",
        b"{}",
        b'{"headers": []}',
        b'{"headers": {}}',
        b'{"headers": {"published_at": null}}',
        b'{"headers": {"published_at": "yesterday"}}',
        b'{"headers": {"published_at": "2026-01-02T03:04:05"}}',  # without a time zone
    ],
)
def test_a_foreign_message_proves_nothing_about_ours(
    engine: Engine, app: Celery, settings: Settings, foreign: bytes
) -> None:
    job = submit_chunks(engine, 1)
    publish_apart(engine, app, settings, job)
    take(app)
    redis_of(app).rpush(QUEUE, foreign)  # it is next in the queue
    lost_messages = Lost(grace_s=0)
    assert lost_messages.put_back(engine, app) == 0
    assert redis_of(app).rpop(QUEUE) == foreign
    assert lost_messages.put_back(engine, app) == 1


def test_each_queue_is_judged_by_its_own_messages(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    exact = submit_chunks(engine, 1, precision="fp32")
    publish_apart(engine, app, settings, exact)
    other = submit_chunks(engine, 1)
    publish_apart(engine, app, settings, other)
    redis_of(app).delete(queue_of("resnext101_32x4d", "nvidia", "fp32"))

    assert Lost(grace_s=0).put_back(engine, app) == 1

    assert queued_and_pending(engine, exact, other) == ["pending", "queued"]


def test_a_cancelled_job_is_left_alone(engine: Engine, app: Celery, settings: Settings) -> None:
    cancelled, running = submit_apart(engine, 2)
    publish_apart(engine, app, settings, cancelled, running)
    redis_of(app).flushall()
    change_job(engine, cancelled, state="cancelled")
    assert Lost(grace_s=0).put_back(engine, app) == 1
    assert queued_and_pending(engine, cancelled, running) == ["queued", "pending"]


def test_a_chunk_that_is_put_back_is_due_at_once(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    job = submit_chunks(engine, 1)
    publish_apart(engine, app, settings, job)
    take(app)
    chunk = chunk_of(engine, job)
    change_chunks(engine, job, due_at=chunk.now + timedelta(hours=1))
    assert Lost(grace_s=0).put_back(engine, app) == 1
    assert publish(engine, app, settings) == 1


@on_postgresql  # SQLite has one writer
def test_a_worker_that_hangs_in_a_claim_delays_no_other_chunk(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    claimed, lost = submit_apart(engine, 2)
    publish_apart(engine, app, settings, claimed, lost)
    message = take(app).message
    take(app)
    with ThreadPoolExecutor(1) as pool, in_mid_transaction(engine, message):
        assert pool.submit(Lost(grace_s=0).put_back, engine, app).result(WITHIN_S) == 1
        assert states(engine, lost) == ["pending"]
