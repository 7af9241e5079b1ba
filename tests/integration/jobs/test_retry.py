"""Failed images are retried, on both databases: each has one row before and after."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from celery import Celery
from sqlalchemy import Engine, insert

from contract.chunks.run import FencedOff
from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import tallies
from contract.errors import JobStateError, UnknownJobError, UsageError
from contract.settings import Settings
from producer.dispatcher.count import fold
from producer.dispatcher.end import expire, settle
from producer.dispatcher.publish import publish
from producer.jobs import retry as retrying
from producer.jobs.cancel import cancel
from producer.jobs.job import Job, read_job
from producer.jobs.retry import Retried, retry
from tests.integration.dispatching import (
    WITHIN_S,
    change_chunks,
    change_job,
    chunk_of,
    claim_as,
    job_of,
    states,
)
from tests.integration.ending import (
    CLASSIFIED,
    IMAGES,
    assert_counts_true,
    assert_ended,
    claim_next,
    codes,
    dispatch,
    failed,
    run_all,
    store,
    submit_job,
)

MIXED = [CLASSIFIED, failed("http_404"), CLASSIFIED, failed("not_an_image")]


@pytest.fixture
def job(engine: Engine, app: Celery, settings: Settings) -> int:
    """A completed job of three chunks. In each, two images have failed with different codes."""
    job = submit_job(engine)
    run_all(engine, app, settings, MIXED)
    dispatch(engine)
    assert_ended(engine, job, "completed")
    return job


def told_of(engine: Engine, job: int) -> Job:
    with reading(engine) as connection:
        return read_job(connection, job)


def again(engine: Engine, job: int, *codes: str) -> Retried:
    return retry(engine, job_of(engine, job).id, codes)


def test_failed_images_are_run_again_and_their_rows_replaced(
    engine: Engine, app: Celery, settings: Settings, job: int
) -> None:
    before = codes(engine, job)
    assert (again(engine, job).images, states(engine, job)) == (6, ["pending"] * 3)
    row = job_of(engine, job)
    assert (row.state, row.finished_at, row.failed, row.errors) == ("running", None, 0, {})
    assert codes(engine, job) == {n: code for n, code in before.items() if code is None}
    assert_counts_true(engine, job)

    messages = run_all(engine, app, settings, [CLASSIFIED, failed("http_404")])
    dispatch(engine)

    assert [each.images for each in messages] == [2, 2, 2]
    assert {n for n, code in codes(engine, job).items() if code is not None} == {3, 7, 11}
    assert_ended(engine, job, "completed")


def test_a_retry_of_one_code_leaves_the_others(
    engine: Engine, app: Celery, settings: Settings, job: int
) -> None:
    assert again(engine, job, "http_404").images == 3
    assert job_of(engine, job).errors == {"not_an_image": 3}
    assert_counts_true(engine, job)
    messages = run_all(engine, app, settings, [CLASSIFIED])
    dispatch(engine)
    assert [each.images for each in messages] == [1, 1, 1]
    assert_ended(engine, job, "completed")
    assert job_of(engine, job).errors == {"not_an_image": 3}


def test_several_codes_are_retried_together(engine: Engine, job: int) -> None:
    assert again(engine, job, "http_404", "not_an_image", "timeout").images == 6


def test_a_code_that_no_image_has_changes_nothing(engine: Engine, job: int) -> None:
    before = job_of(engine, job)
    assert again(engine, job, "http_500") == Retried(job=before.id, images=0, left=0)
    assert job_of(engine, job) == before


@pytest.mark.parametrize(
    ("code", "words"),
    [("timout", "Did you mean timeout"), ("", "resnextq status JOB"), ("HTTP_404", "http_404")],
)
def test_the_error_for_an_unknown_code_names_the_nearest(
    engine, job, code: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words) as it:
        again(engine, job, code)
    assert repr(code) in str(it.value)
    assert_ended(engine, job, "completed")


def test_an_unknown_job_is_named(engine: Engine, job: int) -> None:
    with pytest.raises(UnknownJobError, match="nosuchjob"):
        retry(engine, "nosuchjob")


def test_retried_images_are_due_at_once_with_all_their_attempts(
    engine: Engine, app: Celery, settings: Settings, job: int
) -> None:
    of_poison = {"deaths": 2, "crashes": {"0": 3}, "alone_offset": 0}
    change_chunks(engine, job, attempt=3, due_at=db_now(3600), **of_poison)
    again(engine, job)
    chunk = chunk_of(engine, job)
    assert (chunk.attempt, chunk.deaths, chunk.remaining_images) == (0, 0, 2)
    assert (chunk.crashes, chunk.alone_offset) == (None, None)
    assert chunk.due_at <= chunk.now
    generation = chunk.generation
    publish(engine, app, settings)
    assert chunk_of(engine, job).generation == generation + 1


def test_an_earlier_run_stores_nothing_after_a_retry(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    job = submit_job(engine, 1)
    publish(engine, app, settings)
    claimed = claim_next(engine, app)
    store(engine, claimed, MIXED)
    again(engine, job)
    with pytest.raises(FencedOff):
        store(engine, claimed, MIXED)
    assert claim_as(engine, "w2", claimed.message) is None
    publish(engine, app, settings)
    assert claim_as(engine, "w2", claimed.message) is None
    with pytest.raises(FencedOff):
        store(engine, claimed, MIXED)
    store(engine, claim_next(engine, app), [CLASSIFIED] * 2)
    dispatch(engine)
    assert_ended(engine, job, "completed")


# Jobs that still run, were cancelled or expired


def test_in_a_running_job_only_finished_chunks_are_retried(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    """Failed images of a chunk that still runs are left alone until the chunk is done."""
    job = submit_job(engine)
    publish(engine, app, settings)
    store(engine, claim_next(engine, app), MIXED)
    straggles = claim_next(engine, app)
    store(engine, straggles, MIXED[:2])
    last = claim_next(engine, app)

    retried = again(engine, job)

    assert (retried.images, retried.left) == (2, 1)
    assert sorted(states(engine, job)) == ["pending", "running", "running"]
    assert_counts_true(engine, job)  # its tallies are not folded yet
    fold(engine)
    assert_counts_true(engine, job)
    assert job_of(engine, job).errors == {"http_404": 1}
    assert (again(engine, job).images, again(engine, job).left) == (0, 1)

    store(engine, last, MIXED)
    run_all(engine, app, settings, [CLASSIFIED] * 2)
    dispatch(engine)
    assert job_of(engine, job).state == "running"
    assert_counts_true(engine, job)


@pytest.mark.parametrize("code", ["cancelled", "expired"])
def test_a_cancelled_or_expired_job_continues_after_a_retry(
    engine: Engine, app: Celery, settings: Settings, code: str
) -> None:
    job = submit_job(engine)
    if code == "expired":
        change_job(engine, job, expires_at=db_now(-1))
        expire(engine)
    else:
        cancel(engine, job_of(engine, job).id)
    with pytest.raises(JobStateError, match=f"is {code}, and the dispatcher is still"):
        again(engine, job)
    dispatch(engine)
    assert_ended(engine, job, code)

    assert again(engine, job, code).images == 3 * IMAGES

    assert expire(engine) == []
    run_all(engine, app, settings)
    dispatch(engine)
    assert_ended(engine, job, "completed")
    assert set(codes(engine, job).values()) == {None}


def test_a_time_limit_in_the_future_still_applies(engine: Engine, job: int) -> None:
    change_job(engine, job, expires_at=db_now(3600))
    again(engine, job)
    assert job_of(engine, job).expires_at is not None
    change_job(engine, job, expires_at=db_now(-1))
    assert len(expire(engine)) == 1


def test_the_time_between_an_end_and_a_retry_does_not_count(
    engine: Engine, app: Celery, settings: Settings, job: int
) -> None:
    hour_s = 3600
    for _ in range(2):
        ended = told_of(engine, job)
        assert ended.took_s is not None
        moved = {name: getattr(ended, name) - timedelta(seconds=hour_s)
                 for name in ("created_at", "finished_at")}  # fmt: skip
        change_job(engine, job, **moved)
        again(engine, job)
        assert told_of(engine, job).took_s is None
        run_all(engine, app, settings, [failed("http_404")] * 2)
        dispatch(engine)
    twice = told_of(engine, job)
    assert twice.idle_s >= 2 * hour_s
    assert twice.took_s is not None
    assert 0 < twice.took_s < hour_s
    assert twice.images_per_s == twice.total / twice.took_s


def test_a_retry_can_be_cancelled_and_retried(
    engine: Engine, app: Celery, settings: Settings, job: int
) -> None:
    again(engine, job)
    cancel(engine, job_of(engine, job).id)
    dispatch(engine)
    assert_ended(engine, job, "cancelled")
    assert job_of(engine, job).errors == {"cancelled": 6}
    assert again(engine, job).images == 6
    run_all(engine, app, settings, [CLASSIFIED] * 2)
    dispatch(engine)
    assert_ended(engine, job, "completed")


def test_a_job_being_submitted_cannot_be_retried(engine: Engine, job: int) -> None:
    change_job(engine, job, state="submitting")
    with pytest.raises(JobStateError, match="still being submitted"):
        again(engine, job)


# Interrupted and simultaneous retries


def test_a_cancel_in_the_middle_of_a_retry_stops_both(
    engine: Engine, job: int, monkeypatch
) -> None:
    monkeypatch.setattr(retrying, "CHUNKS_A_TRANSACTION", 1)
    chunks_with_failures = retrying._chunks_with_failures

    def one_by_one(*arguments):
        for numbers in chunks_with_failures(*arguments):
            yield numbers
            cancel(engine, job_of(engine, job).id)

    monkeypatch.setattr(retrying, "_chunks_with_failures", one_by_one)
    with pytest.raises(JobStateError, match=r"is cancelled by now\. 2 images run again"):
        again(engine, job)
    dispatch(engine)
    assert_ended(engine, job, "cancelled")
    assert job_of(engine, job).errors == {"cancelled": 2, "http_404": 2, "not_an_image": 2}


KILLED = """
import os, signal, sys
from sqlalchemy import event
from contract.database.engine import make_engine
from producer.jobs import retry

url, job, transaction = sys.argv[1:]
retry.CHUNKS_A_TRANSACTION = 1
engine = make_engine(url)
deletes = iter(range(int(transaction)))

@event.listens_for(engine, "after_cursor_execute")
def die(connection, cursor, statement, *rest):
    if statement.startswith("DELETE") and next(deletes, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)

retry.retry(engine, job)
"""


@pytest.mark.parametrize("transaction", [0, 1, 2])
def test_a_killed_retry_leaves_whole_chunks_and_can_be_repeated(
    engine: Engine, app: Celery, settings: Settings, job: int, *, transaction: int
) -> None:
    """It is killed in that transaction, when the rows are deleted but nothing else is done."""
    url = engine.url.render_as_string(hide_password=False)
    id_ = job_of(engine, job).id
    done = subprocess.run(
        [sys.executable, "-c", KILLED, url, id_, str(transaction)],
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert states(engine, job).count("pending") == transaction
    assert job_of(engine, job).state == ("running" if transaction else "completed")
    assert_counts_true(engine, job)
    fold(engine)
    assert again(engine, job).images == 2 * (3 - transaction)
    run_all(engine, app, settings, [CLASSIFIED] * 2)
    dispatch(engine)
    assert_ended(engine, job, "completed")
    assert set(codes(engine, job).values()) == {None}


def test_images_that_a_killed_retry_put_back_complete_the_job(
    engine: Engine, app: Celery, settings: Settings, job: int, monkeypatch
) -> None:
    """The retry's first transaction set the job to running, so it need not be repeated."""
    monkeypatch.setattr(retrying, "CHUNKS_A_TRANSACTION", 1)
    chunks_with_failures = retrying._chunks_with_failures
    monkeypatch.setattr(
        retrying, "_chunks_with_failures", lambda *given: [next(chunks_with_failures(*given))]
    )
    assert again(engine, job).images == 2
    run_all(engine, app, settings, [CLASSIFIED] * 2)
    dispatch(engine)
    assert_ended(engine, job, "completed")
    assert job_of(engine, job).errors == {"http_404": 2, "not_an_image": 2}


def test_two_simultaneous_retries_run_each_image_once(
    engine: Engine, app: Celery, settings: Settings, job: int, monkeypatch
) -> None:
    monkeypatch.setattr(retrying, "CHUNKS_A_TRANSACTION", 1)
    barrier = threading.Barrier(2)

    def run_again(_: int) -> int:
        barrier.wait()
        return again(engine, job).images

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(run_again, range(2))) == 6
    assert_counts_true(engine, job)
    run_all(engine, app, settings, [CLASSIFIED] * 2)
    dispatch(engine)
    assert_ended(engine, job, "completed")


def test_counts_stay_correct_when_dispatchers_fold_during_a_retry(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    """The dispatchers fold the same tallies that the retry takes back."""
    job = submit_job(engine, 8)
    publish(engine, app, settings)
    barrier, done = threading.Barrier(3), threading.Event()

    def fold_on(_: int) -> None:
        barrier.wait()
        while not done.is_set():
            fold(engine)
            settle(engine, for_s=0)

    def work() -> None:
        barrier.wait()
        try:
            for _ in range(8):
                store(engine, claim_next(engine, app), MIXED)
                again(engine, job)
        finally:
            done.set()

    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(fold_on, n) for n in range(2)] + [pool.submit(work)]
        for each in running:
            each.result(WITHIN_S)
    assert_counts_true(engine, job)
    dispatch(engine)
    row = job_of(engine, job)
    assert (row.state, row.classified, row.failed, row.errors) == ("running", 16, 0, {})


def test_a_negative_count_is_kept_until_its_tally_comes(engine: Engine, job: int) -> None:
    """A count is negative while a dispatcher still holds the tally that a retry took back."""
    change_job(engine, job, failed=-1, errors={"dns": -1})
    rows = [
        {"job_number": job, "classified": 0, "failed": 1, "errors": {code: 1}}
        for code in ("connect", "dns")
    ]
    with engine.begin() as connection:
        connection.execute(insert(tallies), rows[:1])
    fold(engine)
    assert job_of(engine, job).errors == {"dns": -1, "connect": 1}
    with engine.begin() as connection:
        connection.execute(insert(tallies), rows[1:])
    fold(engine)
    assert (job_of(engine, job).failed, job_of(engine, job).errors) == (1, {"connect": 1})
