"""Jobs of one priority get equal shares, and each step of priority doubles a job's share."""

from __future__ import annotations

from collections import Counter

import pytest
from celery import Celery
from sqlalchemy import Engine

from contract.database.clock import db_now
from contract.settings import Settings
from producer.dispatcher.publish import Demand, publish, share
from tests.integration.dispatching import (
    add_worker,
    change_chunks,
    claim_as,
    states,
    submit_chunks,
    take,
    waiting,
)

WINDOW = 10


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With these settings, a worker of n images/s gives a window of n chunks."""
    return settings.model_copy(update={"window_s": 1.0, "chunk_images": 1})


@pytest.fixture(autouse=True)
def _worker(engine: Engine) -> None:
    add_worker(engine, "w1", images_per_s=WINDOW)


def run(engine: Engine, app: Celery, settings: Settings, number: int) -> Counter[int]:
    """Let the worker take chunks while the dispatcher goes on, and count them by job."""
    jobs: Counter[int] = Counter()
    for _ in range(number):
        message = take(app).message
        assert claim_as(engine, "w1", message) is not None
        jobs[message.job_number] += 1
        publish(engine, app, settings)
    return jobs


def in_window(app: Celery) -> Counter[int]:
    return Counter(sent.message.job_number for sent in waiting(app))


def test_a_large_job_does_not_starve_a_later_one(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    """The large job fills the window first. Then each free place goes to the later job."""
    large = submit_chunks(engine, 100)
    publish(engine, app, settings)
    small = submit_chunks(engine, 20)
    assert run(engine, app, settings, 5) == {large: 5}, "its chunks were in the window first"
    assert in_window(app) == {large: 5, small: 5}
    assert run(engine, app, settings, 20) == {large: 10, small: 10}
    assert in_window(app) == {large: 5, small: 5}


def test_places_that_one_job_cannot_use_go_to_another(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    large, small, later = (submit_chunks(engine, number) for number in (50, 2, 50))
    change_chunks(engine, later, due_at=db_now(3600))
    publish(engine, app, settings)
    assert in_window(app) == {large: WINDOW - 2, small: 2}


def test_a_job_of_higher_priority_overtakes(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    """It waits only for the chunks of the other job that are already in the window."""
    large = submit_chunks(engine, 100)
    publish(engine, app, settings)
    urgent = submit_chunks(engine, 15, priority=10)
    assert run(engine, app, settings, WINDOW) == {large: WINDOW}
    assert in_window(app) == {urgent: WINDOW}
    assert run(engine, app, settings, 15 + WINDOW) == {urgent: 15, large: WINDOW}
    assert set(states(engine, urgent)) == {"running"}


def test_one_step_of_priority_doubles_the_share(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    low, high = (submit_chunks(engine, 100, priority=priority) for priority in (0, 1))
    publish(engine, app, settings)
    assert in_window(app) == {low: 3, high: 7}
    ran = run(engine, app, settings, 60)
    assert (ran[low], ran[high]) == (18, 42), "a share is a whole number of places"


def test_an_urgent_job_without_due_chunks_delays_no_other(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    low = submit_chunks(engine, 20)
    change_chunks(engine, submit_chunks(engine, 5, priority=9), due_at=db_now(3600))
    publish(engine, app, settings)
    assert in_window(app) == {low: WINDOW}


def demand(job_number: int, priority: int, queued: int, due: int) -> Demand:
    return Demand(
        job_number=job_number, priority=priority, queued=queued, due=due, images_a_chunk=1.0
    )


@pytest.mark.parametrize(
    ("demands", "places", "expected"),
    [
        ([], 5, []),
        ([demand(1, 0, 0, 9)], 5, [(1, 5)]),
        ([demand(1, 0, 0, 2)], 5, [(1, 2)]),
        ([demand(1, 0, 4, 9), demand(2, 0, 0, 9)], 3, [(2, 3)]),
        ([demand(1, 0, 4, 9), demand(2, 0, 0, 9)], 6, [(1, 1), (2, 5)]),
        ([demand(1, 0, 0, 9), demand(2, 0, 0, 9), demand(3, 0, 0, 1)], 6, [(1, 3), (2, 2), (3, 1)]),
        ([demand(1, 0, 0, 9), demand(2, 2, 0, 9)], 5, [(2, 4), (1, 1)]),
        ([demand(1, 0, 0, 9), demand(2, 2, 8, 9)], 5, [(2, 3), (1, 2)]),
        (
            [demand(1, -1000, 0, 9), demand(2, 1000, 9, 2), demand(3, 0, 0, 1)],
            5,
            [(2, 2), (3, 1), (1, 2)],
        ),
    ],
)
def test_places_go_to_jobs_with_the_least_for_their_weight(demands, places, expected) -> None:
    assert share(demands, places) == expected


def test_shares_are_counted_in_images() -> None:
    """One job has whole chunks. The other has chunks with few images left after retries."""
    whole = Demand(job_number=1, priority=0, queued=0, due=9, images_a_chunk=64.0)
    left = Demand(job_number=2, priority=0, queued=64, due=90, images_a_chunk=2.0)
    assert share([whole, left], 126) == [(1, 64), (2, 62)]
    assert share([whole], 10) == [(1, 64)], "a chunk is not split"
