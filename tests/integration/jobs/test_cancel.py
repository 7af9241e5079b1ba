"""Cancelled and expired jobs, on both databases: every image gets one row and is counted once."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from celery import Celery
from sqlalchemy import Engine, func, select, update

from contract.chunks.run import FencedOff
from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import chunks, jobs, results
from contract.errors import JobStateError, SourceError, UnknownJobError, UsageError
from contract.settings import Settings
from producer.dispatcher import end as settling
from producer.dispatcher.count import fold
from producer.dispatcher.end import expire, settle
from producer.dispatcher.publish import publish
from producer.dispatcher.reap import Reaper
from producer.jobs.cancel import cancel
from producer.jobs.job import as_json, read_job
from producer.submit.draft import TakenAwayError
from producer.submit.options import MAX_EXPIRES_S
from producer.submit.submission import submit
from tests.integration.dispatching import (
    WITHIN_S,
    Clock,
    add_worker,
    await_a_wait_for_a_lock,
    change_chunks,
    change_job,
    chunk_of,
    claim_as,
    in_mid_transaction,
    job_of,
    on_postgresql,
    states,
    submit_chunks,
    take,
    take_if_any,
    until,
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
from worker.chunk.claim import Claim

ALL = range(3 * IMAGES)


@pytest.fixture
def job(engine: Engine) -> int:
    return submit_job(engine)


@pytest.fixture
def run(engine: Engine, app: Celery, settings: Settings, job: int) -> Claim:
    """A running chunk of the job. The job's two other chunks are queued."""
    publish(engine, app, settings)
    return claim_next(engine, app)


def stop(engine: Engine, job: int) -> None:
    cancel(engine, job_of(engine, job).id)


def positions(claimed: Claim) -> set[int]:
    return set(claimed.images)


# The chunks


def test_pending_images_get_rows_and_the_job_ends(engine: Engine, job: int) -> None:
    stop(engine, job)
    row = job_of(engine, job)
    assert (row.state, row.finished_at) == ("cancelled", None)
    dispatch(engine)
    assert codes(engine, job) == dict.fromkeys(ALL, "cancelled")
    assert states(engine, job) == ["done"] * 3
    assert_ended(engine, job, "cancelled")


def test_the_rows_have_the_submitted_values_and_the_number_of_runs(engine: Engine) -> None:
    id_ = submit(engine, [("https://a.example/1", "one"), ("https://a.example/2", None)])
    with engine.begin() as connection:
        connection.execute(update(chunks).values(attempt=2))
    cancel(engine, id_)
    dispatch(engine)
    with reading(engine) as connection:
        rows = connection.execute(select(results).order_by("position")).all()
        now = connection.scalar(select(db_now()))
    assert [(row.uri, row.ref, row.attempts, row.worker) for row in rows] == [
        ("https://a.example/1", "one", 2, None),
        ("https://a.example/2", None, 2, None),
    ]
    assert all(0 <= (now - row.settled_at).total_seconds() < WITHIN_S for row in rows)


def test_queued_chunks_are_dropped_and_their_messages_claim_nothing(
    engine: Engine, app: Celery, settings: Settings, job: int
) -> None:
    publish(engine, app, settings)
    first, second = take(app).message, take(app).message
    stop(engine, job)
    assert claim_as(engine, "w1", first) is None
    dispatch(engine)
    assert claim_as(engine, "w1", second) is None
    assert claim_as(engine, "w1", take(app).message) is None
    assert publish(engine, app, settings) == 0
    assert codes(engine, job) == dict.fromkeys(ALL, "cancelled")
    assert_ended(engine, job, "cancelled")


def test_a_running_chunk_is_finished_and_the_job_waits_for_it(
    engine: Engine, job: int, run: Claim
) -> None:
    stop(engine, job)
    dispatch(engine)
    assert set(codes(engine, job)) == set(ALL) - positions(run)
    assert chunk_of(engine, job, run.message.chunk).state == "running"
    assert job_of(engine, job).finished_at is None
    assert_counts_true(engine, job)

    store(engine, run, [CLASSIFIED] * 3 + [failed("http_404")])
    dispatch(engine)

    found = codes(engine, job)
    assert [found[position] for position in run.images] == [None, None, None, "http_404"]
    assert_ended(engine, job, "cancelled")


def test_images_to_retry_are_cancelled_instead(engine: Engine, job: int, run: Claim) -> None:
    """The image with a transient error would be retried if the job still ran."""
    stop(engine, job)
    store(engine, run, [CLASSIFIED, failed("timeout"), failed("http_404"), CLASSIFIED])
    dispatch(engine)
    found = [codes(engine, job)[position] for position in run.images]
    assert found == [None, "cancelled", "http_404", None]
    assert_ended(engine, job, "cancelled")


def test_images_handed_back_are_cancelled(engine: Engine, job: int, run: Claim) -> None:
    stop(engine, job)
    store(engine, run, [CLASSIFIED], closed=True)
    dispatch(engine)
    found = [codes(engine, job)[position] for position in run.images]
    assert found == [None, "cancelled", "cancelled", "cancelled"]
    assert_ended(engine, job, "cancelled")


def test_stragglers_are_left_to_their_worker(engine: Engine, job: int, run: Claim) -> None:
    stop(engine, job)
    store(engine, run, [CLASSIFIED, CLASSIFIED])
    dispatch(engine)
    assert_counts_true(engine, job)
    assert job_of(engine, job).finished_at is None
    late = replace(run, images=dict(list(run.images.items())[2:]))
    store(engine, late, [CLASSIFIED, failed("http_500")], closed=True)
    dispatch(engine)
    assert_ended(engine, job, "cancelled")


def test_finished_rows_stay(engine: Engine, app: Celery, settings: Settings, job: int) -> None:
    change_chunks(engine, job, 1, 2, due_at=db_now(3600))
    run_all(engine, app, settings, [CLASSIFIED] * 3 + [failed("http_404")])
    stop(engine, job)
    dispatch(engine)
    found = codes(engine, job)
    assert [found[n] for n in range(IMAGES)] == [None, None, None, "http_404"]
    assert {found[n] for n in range(IMAGES, len(ALL))} == {"cancelled"}
    assert_ended(engine, job, "cancelled")


def test_a_dead_workers_images_are_cancelled_and_its_late_store_refused(
    engine: Engine, job: int, run: Claim, clock: Clock
) -> None:
    stop(engine, job)
    reaper = Reaper(30.0, pause_s=60.0)
    reaper.reap(engine)
    clock.seconds += 30
    assert reaper.reap(engine) == 1
    dispatch(engine)
    with pytest.raises(FencedOff):  # although it would store the whole chunk
        store(engine, run, [CLASSIFIED] * IMAGES)
    assert codes(engine, job) == dict.fromkeys(ALL, "cancelled")
    dispatch(engine)
    assert_ended(engine, job, "cancelled")


def test_another_job_continues(engine: Engine, app: Celery, settings: Settings, job: int) -> None:
    other = submit_chunks(engine, 1, images=IMAGES)
    stop(engine, job)
    dispatch(engine)
    assert states(engine, other) == ["pending"]
    assert {message.job_number for message in run_all(engine, app, settings)} == {other}
    dispatch(engine)
    assert_ended(engine, other, "completed")


# Races


@on_postgresql  # SQLite has one writer
def test_a_chunk_being_claimed_is_left_to_its_worker(
    engine: Engine, app: Celery, settings: Settings, job: int
) -> None:
    publish(engine, app, settings)
    message = take(app).message
    with ThreadPoolExecutor(1) as pool, in_mid_transaction(engine, message):
        stop(engine, job)
        assert pool.submit(settle, engine, 60.0).result(WITHIN_S) == 2
        assert chunk_of(engine, job, message.chunk).state == "queued"
    dispatch(engine)
    assert_ended(engine, job, "cancelled")


@on_postgresql
def test_a_job_whose_state_is_being_changed_is_left_to_the_next_tick(
    engine: Engine, job: int
) -> None:
    stop(engine, job)
    with ThreadPoolExecutor(1) as pool, engine.connect() as connection:
        connection.execute(update(jobs).values(state="running"))
        assert pool.submit(settle, engine, 60.0).result(WITHIN_S) == 0
        connection.commit()
    assert settle(engine, for_s=60) == 0
    assert states(engine, job) == ["pending"] * 3


def test_every_image_has_one_row_when_claims_and_stores_race_a_cancel(
    engine: Engine, app: Celery, settings: Settings
) -> None:
    """Two dispatchers and two workers run at once."""
    job = submit_job(engine, 40)
    add_worker(engine, "w1", images_per_s=1000.0)
    assert publish(engine, app, settings) == 40
    barrier = threading.Barrier(5)

    def work(name: str) -> None:
        barrier.wait()
        while True:
            sent = take_if_any(app)
            if sent is None:
                return
            claimed = claim_as(engine, name, sent.message)
            if claimed is not None:
                store(engine, claimed, [CLASSIFIED] * 3 + [failed("timeout")], worker=name)

    def settle_on(_: int) -> None:
        barrier.wait()
        for _ in range(20):
            settle(engine, for_s=0)
            fold(engine)

    def stop_it() -> None:
        barrier.wait()
        stop(engine, job)

    with ThreadPoolExecutor(5) as pool:
        running = [pool.submit(work, name) for name in ("w1", "w2")]
        running += [pool.submit(settle_on, n) for n in range(2)]
        running.append(pool.submit(stop_it))
        for each in running:
            each.result(WITHIN_S)
    dispatch(engine)
    assert_ended(engine, job, "cancelled")


def test_two_dispatchers_finish_each_image_once(engine: Engine, monkeypatch) -> None:
    monkeypatch.setattr(settling, "CHUNKS_A_TRANSACTION", 2)
    numbers = [submit_job(engine, 12), submit_chunks(engine, 12, images=IMAGES)]
    for number in numbers:
        stop(engine, number)
    barrier = threading.Barrier(2)

    def run_dispatcher(_: int) -> int:
        barrier.wait()
        return sum(settle(engine, for_s=60) for _ in range(3))

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(run_dispatcher, range(2))) == 24
    dispatch(engine)
    for number in numbers:
        assert codes(engine, number) == dict.fromkeys(range(12 * IMAGES), "cancelled")
        assert_ended(engine, number, "cancelled")


def test_a_tick_finishes_a_part_and_jobs_take_turns(engine: Engine, monkeypatch) -> None:
    monkeypatch.setattr(settling, "CHUNKS_A_TRANSACTION", 1)
    large, small = submit_job(engine, 5), submit_chunks(engine, 1)
    stop(engine, large)
    stop(engine, small)
    assert settle(engine, for_s=0) == 1
    assert_counts_true(engine, large)
    assert states(engine, large).count("done") == 1
    monkeypatch.setattr(settling, "time", ticking := Clock())
    monkeypatch.setattr(ticking, "monotonic", iter(range(100)).__next__)
    assert settle(engine, for_s=2) == 2
    assert states(engine, small) == ["done"]


# The job's state


def test_a_cancel_can_be_repeated(engine: Engine, job: int) -> None:
    id_ = job_of(engine, job).id
    assert cancel(engine, id_).pending == len(ALL)
    assert cancel(engine, id_[:6]).state == "cancelled"
    dispatch(engine)
    ended = job_of(engine, job)
    assert cancel(engine, id_).is_finished
    dispatch(engine)
    assert job_of(engine, job) == ended


@pytest.mark.parametrize("state", ["completed", "expired"])
def test_an_ended_job_is_not_cancelled(engine: Engine, job: int, state: str) -> None:
    change_job(engine, job, state=state, finished_at=db_now())
    with pytest.raises(JobStateError, match=f"is {state}: there is nothing left to cancel"):
        stop(engine, job)
    assert job_of(engine, job).state == state


def test_an_unknown_job_is_not_cancelled(engine: Engine, job: int) -> None:
    with pytest.raises(UnknownJobError):
        cancel(engine, "nosuchjob")
    assert job_of(engine, job).state == "running"


def test_the_last_tally_and_a_cancel_agree(engine: Engine, app, settings, job: int) -> None:
    run_all(engine, app, settings)
    stop(engine, job)
    dispatch(engine)
    assert_ended(engine, job, "cancelled")
    assert set(codes(engine, job).values()) == {None}


def test_a_cancelled_job_shows_no_rate(engine: Engine, job: int) -> None:
    change_job(engine, job, images_per_s=50.0)
    stop(engine, job)
    dispatch(engine)
    with reading(engine) as connection:
        shape = as_json(read_job(connection, job), Counter())
    assert (shape["state"], shape["images_per_s"], shape["eta_s"]) == ("cancelled", 0.0, None)
    assert shape["errors"] == {"cancelled": len(ALL)}


# A job that is being submitted


def images_in_chunks(engine: Engine) -> int | None:
    with reading(engine) as connection:
        return connection.scalar(select(func.sum(chunks.c.images)))


def test_a_submit_whose_job_is_cancelled_ends_with_the_reason(engine: Engine) -> None:
    def images(number: int):
        for n in range(number):
            if n == 9_000:
                until(lambda: images_in_chunks(engine) == 8_192)  # it has inserted two groups
                with reading(engine) as connection:
                    cancel(engine, connection.scalar(select(jobs.c.id)))
            yield f"https://a.example/{n}", None

    with pytest.raises(TakenAwayError, match="was cancelled while it was being submitted"):
        submit(engine, images(20_000), key="k")
    dispatch(engine)
    with reading(engine) as connection:
        number, total = connection.execute(select(jobs.c.number, jobs.c.total)).one()
    assert total == 8_192
    assert codes(engine, number) == dict.fromkeys(range(total), "cancelled")
    assert_ended(engine, number, "cancelled")
    # The key is free, because an incomplete job does not count as the wanted one.
    again = submit(engine, [("https://a.example/1", None)], key="k")
    with reading(engine) as connection:
        assert connection.scalar(select(jobs.c.state).where(jobs.c.id == again)) == "running"


@on_postgresql
def test_images_being_inserted_count_in_the_total(engine: Engine, job: int) -> None:
    change_job(engine, job, state="submitting", total=0)
    with ThreadPoolExecutor(1) as pool, engine.connect() as submitting:
        lock = select(jobs.c.id).with_for_update(read=True, key_share=True)  # like a submit
        submitting.execute(lock)
        submitting.execute(update(chunks).where(chunks.c.chunk == 0).values(images=100))
        cancelling = pool.submit(stop, engine, job)
        await_a_wait_for_a_lock(engine)
        submitting.commit()
        cancelling.result(WITHIN_S)
    assert job_of(engine, job).total == 100 + 2 * IMAGES


def test_a_job_cancelled_before_its_first_image_is_finished_at_once(engine: Engine) -> None:
    def images():
        yield "https://a.example/1", None
        raise SourceError("no more")

    with pytest.raises(SourceError):
        submit(engine, images())
    number = submit_chunks(engine, 1)
    change_job(engine, number, state="submitting", total=0)
    with engine.begin() as connection:
        connection.execute(chunks.delete())
    stop(engine, number)
    row = job_of(engine, number)
    assert (row.state, row.total) == ("cancelled", 0)
    assert row.finished_at is not None


# Expiry


def test_a_job_expires_at_its_time_limit_and_not_before(
    engine: Engine, app: Celery, settings: Settings, job: int
) -> None:
    publish(engine, app, settings)
    claimed = claim_next(engine, app)
    store(engine, claimed, [CLASSIFIED] * IMAGES)
    change_job(engine, job, expires_at=db_now(3600))
    assert expire(engine) == []
    change_job(engine, job, expires_at=db_now(-0.1))
    assert expire(engine) == [job_of(engine, job).id]
    assert expire(engine) == []
    dispatch(engine)
    found = codes(engine, job)
    assert {found.pop(position) for position in claimed.images} == {None}
    assert set(found.values()) == {"expired"}
    assert_ended(engine, job, "expired")


@pytest.mark.parametrize("state", ["submitting", "completed", "cancelled"])
def test_only_a_running_job_expires(engine: Engine, job: int, state: str) -> None:
    change_job(engine, job, state=state, expires_at=db_now(-1))
    assert expire(engine) == []
    assert job_of(engine, job).state == state


def test_the_time_limit_counts_from_the_end_of_the_submit(engine: Engine) -> None:
    id_ = submit(engine, [("https://a.example/1", None)], expires_s=7 * 86_400)
    endless = submit(engine, [("https://a.example/1", None)])
    with reading(engine) as connection:
        rows = connection.execute(select(jobs.c.id, jobs.c.expires_at, jobs.c.created_at))
        found = {row.id: row for row in rows}
    left_s = (found[id_].expires_at - found[id_].created_at).total_seconds()
    assert 7 * 86_400 <= left_s < 7 * 86_400 + WITHIN_S
    assert found[endless].expires_at is None


@pytest.mark.parametrize("seconds", [0, -5, float("nan"), float("inf"), MAX_EXPIRES_S + 1])
def test_an_invalid_time_limit_is_refused(engine: Engine, seconds: float) -> None:
    with pytest.raises(UsageError, match="expires"):
        submit(engine, [("https://a.example/1", None)], expires_s=seconds)


def test_databases_can_store_the_longest_time_limit(engine: Engine) -> None:
    submit(engine, [("https://a.example/1", None)], expires_s=MAX_EXPIRES_S)
    with reading(engine) as connection:
        assert connection.scalar(select(jobs.c.expires_at)) is not None
