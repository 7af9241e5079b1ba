"""The dispatcher folds each tally into its job once, and the last one completes the job."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from math import exp
from typing import Any

import pytest
from sqlalchemy import Engine, func, insert, select

from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import tallies
from producer.dispatcher.count import RATE_TIME_S, fold
from producer.jobs.job import read_job
from tests.integration.dispatching import WITHIN_S, change_job, job_of, on_postgresql, submit_chunks
from tests.tallies import tally


def tallies_left(engine: Engine) -> int:
    with reading(engine) as connection:
        return connection.scalar(select(func.count()).select_from(tallies)) or 0


def counts(engine: Engine, job: int) -> tuple[int, int, dict[str, int]]:
    row = job_of(engine, job)
    return row.classified, row.failed, row.errors


def test_tallies_are_added_to_their_jobs_and_deleted(engine: Engine) -> None:
    first, second = submit_chunks(engine, 100), submit_chunks(engine, 100)
    tally(engine, first, 5)
    tally(engine, first, 2, http_404=1, dns=2)
    tally(engine, second, 1)
    assert fold(engine) == 3
    tally(engine, first, 0, dns=1, timeout=1)
    assert fold(engine) == 1
    assert fold(engine) == 0
    assert counts(engine, first) == (7, 5, {"http_404": 1, "dns": 3, "timeout": 1})
    assert counts(engine, second) == (1, 0, {})
    assert tallies_left(engine) == 0


def test_a_job_is_completed_with_its_last_image_and_not_before(engine: Engine, caplog) -> None:
    job = submit_chunks(engine, 10)
    change_job(engine, job, name="ten")
    caplog.set_level(logging.INFO)
    tally(engine, job, 6, http_404=3)
    fold(engine)
    assert (job_of(engine, job).state, job_of(engine, job).finished_at) == ("running", None)
    assert "completed" not in caplog.text

    tally(engine, job, 0, dns=1)
    fold(engine)

    row = job_of(engine, job)
    assert row.state == "completed"
    assert row.finished_at >= row.created_at
    assert counts(engine, job) == (6, 4, {"http_404": 3, "dns": 1})
    assert f"Job {row.id} (ten) is completed: 6 classified, 4 failed" in caplog.text
    fold(engine)
    assert job_of(engine, job).finished_at == row.finished_at


@pytest.mark.parametrize("state", ["cancelled", "expired"])
def test_a_cancelled_or_expired_job_is_counted_and_keeps_its_state(
    engine: Engine, state: str
) -> None:
    job = submit_chunks(engine, 2)
    change_job(engine, job, state=state)
    tally(engine, job, 2)
    fold(engine)
    row = job_of(engine, job)
    assert (row.state, *counts(engine, job)) == (state, 2, 0, {})
    assert row.finished_at >= row.created_at


def test_two_dispatchers_fold_each_tally_once_while_workers_add_more(
    engine: Engine, caplog
) -> None:
    numbers = [submit_chunks(engine, 120) for _ in range(2)]
    caplog.set_level(logging.INFO)
    barrier, added = threading.Barrier(4), threading.Event()

    def work(job: int) -> None:
        barrier.wait()
        for n in range(60):
            tally(engine, job, 1, **{"dns" if n % 2 else "http_404": 1})

    def fold_on(_: int) -> int:
        barrier.wait()
        folded = 0
        while not added.is_set():
            folded += fold(engine)
        return folded + fold(engine)

    with ThreadPoolExecutor(4) as pool:
        folders = [pool.submit(fold_on, n) for n in range(2)]
        try:
            list(pool.map(work, numbers))
        finally:
            added.set()
        assert sum(folder.result() for folder in folders) == 120
    for job in numbers:
        assert counts(engine, job) == (60, 60, {"dns": 30, "http_404": 30})
        assert job_of(engine, job).state == "completed"
    assert caplog.text.count("is completed") == 2


def test_counts_never_decrease_while_tallies_are_folded(engine: Engine) -> None:
    job, seen, done = submit_chunks(engine, 50), [], threading.Event()

    def add_and_fold() -> None:
        try:
            for _ in range(50):
                tally(engine, job, 1)
                fold(engine)
        finally:
            done.set()

    folder = threading.Thread(target=add_and_fold)
    folder.start()
    while not done.is_set():
        with reading(engine) as connection:
            seen.append(read_job(connection, job).classified)
    folder.join()
    assert seen == sorted(seen)
    assert counts(engine, job) == (50, 0, {})


@on_postgresql  # SQLite has one writer
def test_a_fold_does_not_wait_for_a_worker_in_mid_transaction(engine: Engine) -> None:
    """The worker's rows refer to the job, so PostgreSQL locks the job for them."""
    job = submit_chunks(engine, 3)
    tally(engine, job, 1)
    with ThreadPoolExecutor(1) as pool, engine.connect() as worker:
        row: dict[str, Any] = {"job_number": job, "classified": 1, "failed": 0, "errors": {}}
        worker.execute(insert(tallies).values(row))
        assert pool.submit(fold, engine).result(WITHIN_S) == 1
        worker.commit()
    assert fold(engine) == 1
    assert counts(engine, job) == (2, 0, {})


# The rate


def test_the_first_rate_counts_from_the_submit(engine: Engine) -> None:
    job = submit_chunks(engine, 100)
    change_job(engine, job, created_at=db_now(-20))
    tally(engine, job, 50, dns=10)
    fold(engine)
    row = job_of(engine, job)
    assert row.images_per_s == pytest.approx(60 / (row.folded_at - row.created_at).total_seconds())


@pytest.mark.parametrize("images", [0, 40])
def test_the_rate_is_a_decaying_average(engine: Engine, images: int) -> None:
    job = submit_chunks(engine, 100)
    change_job(engine, job, images_per_s=10.0, folded_at=db_now(-RATE_TIME_S))
    before = job_of(engine, job)
    if images:
        tally(engine, job, images)
    fold(engine)
    after = job_of(engine, job)
    seconds = (after.folded_at - before.folded_at).total_seconds()
    kept = exp(-seconds / RATE_TIME_S)
    assert after.images_per_s == pytest.approx(10.0 * kept + images / seconds * (1 - kept))
    assert 0 < kept < 0.5


def test_a_stalled_job_has_rate_zero_and_is_not_updated_again(engine: Engine) -> None:
    job = submit_chunks(engine, 100)
    change_job(engine, job, images_per_s=10.0, folded_at=db_now(-1000))
    fold(engine)
    row = job_of(engine, job)
    assert row.images_per_s == 0.0
    fold(engine)
    assert job_of(engine, job).folded_at == row.folded_at


def test_two_crossing_folds_do_not_divide_by_zero_time(engine: Engine) -> None:
    """The fold that commits last may have read the clock first."""
    job = submit_chunks(engine, 1000)
    change_job(engine, job, images_per_s=10.0, folded_at=db_now(3600))
    tally(engine, job, 10)
    fold(engine)
    assert job_of(engine, job).images_per_s == pytest.approx(11.0, rel=0.1)
