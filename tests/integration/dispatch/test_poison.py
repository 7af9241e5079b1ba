"""Images that crash their worker are found and cost no other image, on both databases.

The tests play the workers here. In test_witness.py the workers are real processes that die.
"""

from __future__ import annotations

from collections import Counter

import pytest
from celery import Celery
from sqlalchemy import Engine, select

from contract import remaining
from contract.chunks.run import FencedOff
from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import results
from contract.database.waits import Database
from contract.settings import Settings
from producer.dispatcher.count import fold
from producer.dispatcher.publish import publish
from producer.dispatcher.reap import Reaper
from producer.dispatcher.suspects import CRASHES_TO_CONDEMN, DEATHS_TO_SUSPECT
from tests.integration.dispatching import (
    add_worker,
    change_chunks,
    change_worker,
    chunk_of,
    claim_as,
    identity_of,
    job_of,
    waiting,
)
from tests.integration.ending import (
    CLASSIFIED,
    IMAGES,
    claim_next,
    codes,
    failed,
    store,
    submit_job,
)
from worker.chunk.claim import Claim, begin_alone
from worker.chunk.outcome import Outcome


@pytest.fixture
def reaper() -> Reaper:
    """A reaper that has already reached the database for a lease."""
    return Reaper(0.0, pause_s=3600.0)


@pytest.fixture
def suspect(engine: Engine) -> int:
    """A job of one chunk whose workers have died."""
    job = submit_job(engine, 1)
    change_chunks(engine, job, deaths=DEATHS_TO_SUSPECT)
    return job


class Lives:
    """A sequence of workers with different names."""

    def __init__(self, engine: Engine, app: Celery, settings: Settings, reaper: Reaper) -> None:
        self._engine, self._app, self._settings, self._reaper = engine, app, settings, reaper
        self._born = 0

    def begin(self) -> Claim:
        """Let a new worker take the due chunk, and run an image alone if the message says so."""
        assert publish(self._engine, self._app, self._settings) == 1
        self._born += 1
        name = f"w{self._born}"
        add_worker(self._engine, name)
        claimed = claim_next(self._engine, self._app, name)
        if claimed.message.alone:
            begin_alone(Database(self._engine), identity_of(name), claimed)
        return claimed

    def end(self, crashed_by: str | None) -> None:
        """Let the last worker die: of a crash by this signal, or killed from outside (None)."""
        change_worker(self._engine, f"w{self._born}", crashed_by=crashed_by)
        self._reaper.reap(self._engine)

    def store(self, claimed: Claim, outcome: Outcome = CLASSIFIED) -> None:
        """Store the outcome of the run's only image."""
        store(self._engine, claimed, [outcome], worker=f"w{self._born}")


@pytest.fixture
def lives(engine: Engine, app: Celery, settings: Settings, reaper: Reaper) -> Lives:
    return Lives(engine, app, settings, reaper)


def image_of(claimed: Claim) -> int:
    (position,) = claimed.images
    return position


def left(engine: Engine, job: int) -> list[int]:
    return remaining.decode(chunk_of(engine, job).remaining)


def test_a_chunk_that_was_in_two_dead_workers_runs_image_by_image(
    engine: Engine, lives: Lives, reaper: Reaper
) -> None:
    job = submit_job(engine, 1)
    for _ in range(DEATHS_TO_SUSPECT):
        assert len(lives.begin().images) == IMAGES
        lives.end(None)
    for position in range(IMAGES):
        claimed = lives.begin()
        assert claimed.message.alone
        assert claimed.message.uris == (f"https://a.example/{position}.jpg",)
        lives.store(claimed)
        assert left(engine, job) == list(range(position + 1, IMAGES))
    assert chunk_of(engine, job).state == "done"
    fold(engine)
    assert (job_of(engine, job).state, job_of(engine, job).classified) == ("completed", IMAGES)


def test_an_image_that_crashes_three_workers_fails_and_the_others_are_classified(
    engine: Engine, lives: Lives, suspect: int, caplog
) -> None:
    culprit, ran = 1, Counter[int]()
    while chunk_of(engine, suspect).state != "done":
        claimed = lives.begin()
        position = image_of(claimed)
        ran[position] += 1
        if position == culprit:
            lives.end("SIGSEGV")
        else:
            lives.store(claimed)
    assert codes(engine, suspect) == {0: None, 1: "crashed", 2: None, 3: None}
    assert ran == {0: 1, 1: CRASHES_TO_CONDEMN, 2: 1, 3: 1}
    with reading(engine) as connection:
        row = connection.execute(select(results).where(results.c.position == culprit)).one()
    assert (row.uri, row.error_detail) == (
        "https://a.example/1.jpg",
        "the worker ended with SIGSEGV each time",
    )
    fold(engine)
    job = job_of(engine, suspect)
    assert (job.state, job.classified, job.errors) == ("completed", IMAGES - 1, {"crashed": 1})
    assert "running alone, ended its worker by SIGSEGV: 3 of 3 times" in caplog.text


def test_a_chunk_of_crashing_images_ends(engine: Engine, lives: Lives, suspect: int) -> None:
    for _ in range(IMAGES * CRASHES_TO_CONDEMN):
        lives.begin()
        lives.end("SIGABRT")
    assert codes(engine, suspect) == dict.fromkeys(range(IMAGES), "crashed")
    fold(engine)
    assert job_of(engine, suspect).state == "completed"


def test_fifty_killed_workers_condemn_no_image(
    engine: Engine, lives: Lives, reaper: Reaper
) -> None:
    """Whenever an image of the chunk runs, its worker is killed, even with one image left."""
    job = submit_job(engine, 1)
    ran = Counter[int]()
    for _ in range(50):
        ran.update(list(lives.begin().images))
        lives.end(None)
    assert set(ran.values()) == {DEATHS_TO_SUSPECT + 48 // IMAGES}, "every image had its turn"
    change_chunks(engine, job, remaining=remaining.encode([2]), remaining_images=1)
    for _ in range(10):
        assert image_of(lives.begin()) == 2
        lives.end(None)
    assert codes(engine, job) == {}
    assert chunk_of(engine, job).crashes is None
    claimed = lives.begin()
    assert claimed.attempt == 1, "no death counts as an attempt"
    lives.store(claimed)
    assert codes(engine, job) == {2: None}


def test_a_crash_with_several_images_counts_for_none(engine: Engine, lives: Lives) -> None:
    job = submit_job(engine, 1)
    lives.begin()
    lives.end("SIGSEGV")
    chunk = chunk_of(engine, job)
    assert (chunk.deaths, chunk.crashes, codes(engine, job)) == (1, None, {})


def test_a_crash_before_an_image_runs_alone_counts_for_none(
    engine: Engine, app: Celery, settings: Settings, suspect: int, lives: Lives
) -> None:
    lives.begin()
    lives.end("SIGSEGV")
    assert chunk_of(engine, suspect).crashes == {"0": 1}
    publish(engine, app, settings)
    add_worker(engine, "waits")
    assert claim_next(engine, app, "waits").message.alone  # and it has not begun
    change_worker(engine, "waits", crashed_by="SIGSEGV")
    assert Reaper(0.0, pause_s=3600.0).reap(engine) == 1
    assert chunk_of(engine, suspect).crashes == {"0": 1}


def test_transient_errors_cost_a_suspect_image_its_own_attempts_only(
    engine: Engine, lives: Lives, suspect: int
) -> None:
    """While it waits, the next image has its turn, with its own attempts."""
    seen = []
    while not seen or image_of(seen[-1]) != IMAGES - 1:
        seen.append(lives.begin())
        lives.store(seen[-1], failed("timeout") if image_of(seen[-1]) == 0 else CLASSIFIED)
        change_chunks(engine, suspect, due_at=db_now())
    while left(engine, suspect):
        seen.append(lives.begin())
        lives.store(seen[-1], failed("timeout"))
        change_chunks(engine, suspect, due_at=db_now())
    assert codes(engine, suspect) == {0: "timeout"} | dict.fromkeys(range(1, IMAGES))
    runs = [(image_of(claimed), claimed.attempt) for claimed in seen]
    assert sorted(runs) == [(0, 1), (0, 2), (0, 3), *((n, 1) for n in range(1, IMAGES))]


def test_a_worker_that_lost_its_only_image_stores_nothing(
    engine: Engine, lives: Lives, suspect: int
) -> None:
    late = lives.begin()
    lives.end(None)
    with pytest.raises(FencedOff):
        lives.store(late)
    assert codes(engine, suspect) == {}
    assert left(engine, suspect) == list(range(IMAGES))


def test_a_message_delivered_twice_runs_an_image_once(
    engine: Engine, app: Celery, settings: Settings, suspect: int
) -> None:
    publish(engine, app, settings)
    (sent,) = waiting(app)
    assert claim_next(engine, app) is not None
    assert claim_as(engine, "w2", sent.message) is None


def test_other_chunks_of_the_job_stay_whole(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    job = submit_job(engine, 2)
    change_chunks(engine, job, 1, deaths=DEATHS_TO_SUSPECT)
    publish(engine, app, settings)
    sent = {each.message.chunk: each.message for each in waiting(app)}
    assert (sent[0].alone, sent[0].images) == (False, IMAGES)
    assert (sent[1].alone, len(sent[1].uris)) == (True, 1)
