"""Claim and store on both databases: one run of a chunk counts, even if others come late."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, insert, select, text, update
from sqlalchemy.exc import DBAPIError, OperationalError

from contract import remaining
from contract.broker.connection import queue_of
from contract.broker.message import ChunkMessage, MalformedMessage
from contract.chunks import later
from contract.chunks import run as moves
from contract.chunks.fence import Fence
from contract.chunks.run import FencedOff
from contract.database.clock import db_now
from contract.database.engine import make_engine, reading
from contract.database.tables import (
    TOP,
    chunk_uris,
    chunks,
    jobs,
    labels,
    models,
    results,
    tallies,
    workers,
)
from contract.database.waits import Database
from contract.failure import Failure
from contract.flow import LONGEST_DEFERRAL_S, SHORTEST_DEFERRAL_S
from contract.settings import Settings
from worker.chunk.claim import Claim, claim
from worker.chunk.live_runs import Runs
from worker.chunk.outcome import Outcome, Prediction, Provenance
from worker.chunk.run import ChunkRun, ClassifierFault, Snapshot
from worker.chunk.store import Store
from worker.metrics.stages import Metrics
from worker.process.heartbeat import Presence
from worker.process.identity import Identity, register

IMAGES = 5
FIRST = 640  # the chunk's first position
CHUNK = 10
QUEUE = queue_of("resnext101_32x4d", "nvidia", "amp")
SHA, OTHER_SHA = "a" * 64, "b" * 64
CLASSIFIER: Any = SimpleNamespace(
    model="resnext101_32x4d",
    weights="/somewhere/tuned.pth",
    weights_sha256=SHA,
    title="resnext101_32x4d/tuned",
    device="cpu",
    precision="fp32",
    spec=SimpleNamespace(categories=tuple(f"label {n}" for n in range(1000))),
)
TABBY = Prediction((281, 282, 285, 287, 283), (0.5, 0.25, 0.125, 0.0625, 0.03125))
SEEN = Provenance(
    final_uri="https://b.example/1.jpg",
    bytes=1234,
    sha256="c" * 64,
    format="JPEG",
    width=640,
    height=480,
)
CLASSIFIED = Outcome(TABBY, SEEN)


def failed(code: str, **rest: Any) -> Outcome:
    return Outcome(Failure(code, **rest), Provenance())


@dataclass
class Fleet:
    """One job with one chunk in the database, and the worker `w1`."""

    engine: Engine
    database: Database
    identity: Identity
    store: Store
    job: int

    def publish(self) -> ChunkMessage:
        """Queue the chunk as the dispatcher does, and return its message."""
        with self.engine.begin() as connection:
            row = connection.execute(
                update(chunks)
                .where(chunks.c.state == "pending")
                .values(state="queued", generation=chunks.c.generation + 1)
                .returning(chunks.c.generation, chunks.c.remaining, chunks.c.later)
            ).one()
        offsets = later.current(remaining.decode(row.remaining), row.later)
        return ChunkMessage(
            job="job",
            job_number=self.job,
            chunk=CHUNK,
            generation=row.generation,
            positions=tuple(FIRST + offset for offset in offsets),
            uris=tuple(f"https://a.example/{offset}.jpg" for offset in offsets),
        )

    def claim(self, message: ChunkMessage) -> Claim | None:
        return claim(self.database, self.identity, message)

    def begin(self) -> Claim:
        claimed = self.claim(self.publish())
        assert claimed is not None
        return claimed

    def as_worker(self, name: str, sha256: str = SHA) -> Fleet:
        identity = replace(self.identity, worker=name, weights_sha256=sha256)
        store = Store(self.database, identity, max_attempts=3, retry_backoff_s=5.0)
        return replace(self, identity=identity, store=store)

    def chunk(self) -> Any:
        waits_s = chunks.c.due_at
        with reading(self.engine) as connection:
            return connection.execute(
                select(
                    chunks.c.state,
                    chunks.c.generation,
                    chunks.c.attempt,
                    chunks.c.worker,
                    chunks.c.remaining,
                    chunks.c.remaining_images,
                    chunks.c.later,
                    chunks.c.fault,
                    waits_s,
                    db_now().label("now"),
                )
            ).one()

    def left(self) -> set[int]:
        chunk = self.chunk()
        left = {FIRST + offset for offset in remaining.decode(chunk.remaining)}
        assert chunk.remaining_images == len(left)
        return left

    def waits_s(self) -> float:
        chunk = self.chunk()
        return (chunk.due_at - chunk.now).total_seconds()

    def rows(self) -> dict[int, Any]:
        with reading(self.engine) as connection:
            found = connection.execute(select(results)).all()
        return {row.position: row for row in found}

    def tallies(self) -> list[tuple[int, int, dict[str, int]]]:
        with reading(self.engine) as connection:
            columns = tallies.c.classified, tallies.c.failed, tallies.c.errors
            return [tuple(row) for row in connection.execute(select(*columns))]

    def settle_all(self, claimed: Claim) -> None:
        self.store.store(claimed, of(dict.fromkeys(claimed.images, CLASSIFIED)))


def of(outcomes: dict[int, Outcome], unsettled: set[int] = frozenset(), **rest: Any) -> Snapshot:
    return Snapshot(outcomes, frozenset(unsettled), **({"closed": False} | rest))


@pytest.fixture
def fleet(engine: Engine) -> Fleet:
    with engine.begin() as connection:
        job = connection.execute(
            insert(jobs)
            .values(
                id="job", owner="me", priority=0, state="running", model="resnext101_32x4d",
                weights="nvidia", precision="amp", queue=QUEUE, created_at=db_now(), total=IMAGES,
                classified=0, failed=0, errors={}, images_per_s=0.0,
            )
            .returning(jobs.c.number)
        ).scalar_one()  # fmt: skip
        connection.execute(
            insert(chunks).values(
                job_number=job, chunk=CHUNK, first_position=FIRST, images=IMAGES, shuffle=1,
                state="pending", generation=0, attempt=0, deaths=0, due_at=db_now(),
                remaining=remaining.all_of(IMAGES), remaining_images=IMAGES,
            )
        )  # fmt: skip
        uris = [f"https://a.example/{n}.jpg" for n in range(IMAGES)]
        connection.execute(
            insert(chunk_uris).values(
                job_number=job, chunk=CHUNK, uris=uris, refs=["r0", None, "r2", "r3", "r4"]
            )
        )
    database = Database(engine)
    identity = register(database, Settings(), CLASSIFIER, "w1")
    store = Store(database, identity, max_attempts=3, retry_backoff_s=5.0)
    return Fleet(engine, database, identity, store, job)


# Claim


def test_a_claim_takes_a_queued_chunk_for_this_worker(fleet: Fleet) -> None:
    claimed = fleet.begin()
    assert (claimed.attempt, claimed.first_position) == (1, FIRST)
    assert set(claimed.images) == {640, 641, 642, 643, 644}
    assert (claimed.images[642].uri, claimed.images[642].ref) == ("https://a.example/2.jpg", "r2")
    assert claimed.images[641].ref is None
    chunk = fleet.chunk()
    assert (chunk.state, chunk.worker, chunk.attempt) == ("running", "w1", 1)


def test_only_one_of_two_simultaneous_claims_succeeds(fleet: Fleet) -> None:
    message = fleet.publish()
    barrier = threading.Barrier(2)

    def take(name: str) -> Claim | None:
        barrier.wait()
        return fleet.as_worker(name).claim(message)

    with ThreadPoolExecutor(2) as pool:
        claims = list(pool.map(take, ("w1", "w2")))
    assert sum(claimed is not None for claimed in claims) == 1
    assert fleet.claim(message) is None
    assert fleet.chunk().attempt == 1


def test_a_message_of_an_older_generation_claims_nothing(fleet: Fleet) -> None:
    old = fleet.publish()
    with fleet.engine.begin() as connection:
        connection.execute(update(chunks).values(state="pending"))
    new = fleet.publish()
    assert fleet.claim(old) is None
    assert fleet.claim(new) is not None


@pytest.mark.parametrize(
    "change",
    [{"state": "cancelled"}, {"queue": queue_of("resnext101_32x4d", "nvidia", "fp32")}],
    ids=["cancelled", "another precision"],
)
def test_cancelled_jobs_and_jobs_of_other_queues_are_not_claimed(fleet: Fleet, change) -> None:
    message = fleet.publish()
    with fleet.engine.begin() as connection:
        connection.execute(update(jobs).values(**change))
    assert fleet.claim(message) is None
    assert fleet.chunk().state == "queued"


def test_a_message_whose_images_differ_from_sql_claims_nothing(fleet: Fleet) -> None:
    message = replace(fleet.publish(), positions=(1, 2, 3, 4, 5))
    with pytest.raises(MalformedMessage, match="other images"):
        fleet.claim(message)
    assert fleet.chunk().state == "queued"


def test_the_first_claim_pins_the_weights(fleet: Fleet) -> None:
    fleet.begin()
    with reading(fleet.engine) as connection:
        assert connection.scalar(select(jobs.c.weights_sha256)) == SHA


def test_a_worker_with_other_weights_of_that_name_claims_nothing(fleet: Fleet, caplog) -> None:
    fleet.store.store(fleet.begin(), of({}, set(range(640, 645)), closed=True))
    caplog.set_level(logging.ERROR)

    assert fleet.as_worker("w2", OTHER_SHA).claim(fleet.publish()) is None

    chunk = fleet.chunk()
    assert (chunk.state, chunk.worker, chunk.attempt) == ("pending", None, 0)
    assert fleet.waits_s() > 1
    assert SHA in caplog.text
    assert OTHER_SHA in caplog.text
    assert fleet.claim(fleet.publish()) is not None


def test_only_one_of_two_workers_with_different_weights_pins_the_job(fleet: Fleet) -> None:
    message = fleet.publish()
    with fleet.engine.begin() as connection:  # a second chunk of the job
        for table in (chunks, chunk_uris):
            columns = [column for column in table.c if column.name != "chunk"]
            copy = select(text(str(CHUNK + 1)), *columns)
            connection.execute(insert(table).from_select(["chunk", *columns], copy))
    messages = [message, replace(message, chunk=CHUNK + 1)]
    barrier = threading.Barrier(2)

    def take(n: int) -> Claim | None:
        barrier.wait()
        return fleet.as_worker(f"w{n}", (SHA, OTHER_SHA)[n]).claim(messages[n])

    with ThreadPoolExecutor(2) as pool:
        claims = list(pool.map(take, (0, 1)))
    assert sum(claimed is not None for claimed in claims) == 1


def test_a_claim_reports_the_queue_time_by_the_databases_clock(
    fleet: Fleet,
) -> None:
    message = fleet.publish()
    with fleet.engine.begin() as connection:
        connection.execute(update(chunks).values(published_at=db_now(-30)))
    claimed = fleet.claim(message)
    assert claimed is not None
    assert 30 <= claimed.queue_wait_s < 90


def test_a_chunk_without_a_publication_time_can_be_claimed(fleet: Fleet) -> None:
    assert fleet.begin().queue_wait_s is None


# Store


def test_every_column_of_a_result_is_stored(fleet: Fleet) -> None:
    claimed = fleet.begin()
    stored = fleet.store.store(
        claimed,
        of(
            {640: CLASSIFIED, 641: failed("http_404", detail="gone\x00 \ud800"),
             642: Outcome(Prediction((1, 0), (0.75, 0.25)), Provenance()),
             643: failed("not_finite"), 644: failed("http_404")}
        ),
    )  # fmt: skip

    assert (stored.classified, stored.failed) == (2, {"http_404": 2, "not_finite": 1})
    rows = fleet.rows()
    assert set(rows) == {640, 641, 642, 643, 644}
    row = rows[640]._asdict()
    assert (fleet.chunk().now - row.pop("settled_at")).total_seconds() < 60
    assert row == {
        "job_number": fleet.job, "position": 640, "uri": "https://a.example/0.jpg", "ref": "r0",
        "attempts": 1, "worker": "w1", "error_code": None, "error_detail": None,
        "final_uri": "https://b.example/1.jpg", "bytes": 1234, "sha256": "c" * 64,
        "format": "JPEG", "width": 640, "height": 480,
        "model_number": fleet.identity.model_number, "precision": "fp32", "orientation": "ignore",
        "class_1": 281, "class_2": 282, "class_3": 285, "class_4": 287, "class_5": 283,
        "score_1": 0.5, "score_2": 0.25, "score_3": 0.125, "score_4": 0.0625, "score_5": 0.03125,
    }  # fmt: skip
    assert (rows[641].error_code, rows[641].error_detail) == ("http_404", "gone\ufffd ?")
    assert (rows[641].model_number, rows[641].class_1) == (None, None)
    assert [rows[642]._asdict()[f"class_{n + 1}"] for n in range(TOP)] == [1, 0, None, None, None]
    assert fleet.tallies() == [(2, 3, {"http_404": 2, "not_finite": 1})]
    chunk = fleet.chunk()
    assert (chunk.state, chunk.worker, fleet.left()) == ("done", None, set())


def test_predictions_can_be_queried_by_label(fleet: Fleet) -> None:
    fleet.settle_all(fleet.begin())
    with reading(fleet.engine) as connection:
        found = connection.execute(
            text("SELECT position, rank, model FROM predictions WHERE label = 'label 282'")
        ).all()
    assert sorted(found) == [(n, 2, "resnext101_32x4d/tuned") for n in range(640, 645)]


def test_a_run_of_an_older_generation_stores_nothing(fleet: Fleet) -> None:
    slow = fleet.begin()
    with fleet.engine.begin() as connection:  # reaped, because its worker seemed dead
        connection.execute(update(chunks).values(state="pending", worker=None))
    quick = fleet.as_worker("w2").claim(fleet.publish())
    assert quick is not None

    with pytest.raises(FencedOff):
        fleet.settle_all(slow)
    assert (fleet.rows(), fleet.tallies(), fleet.chunk().worker) == ({}, [], "w2")

    fleet.as_worker("w2").settle_all(quick)
    with pytest.raises(FencedOff):
        fleet.store.store(slow, of({640: failed("http_404")}, {641, 642, 643, 644}))
    assert fleet.tallies() == [(5, 0, {})]
    assert {row.worker for row in fleet.rows().values()} == {"w2"}


def test_a_reaped_run_stores_nothing_even_before_the_next_claim(fleet: Fleet) -> None:
    slow = fleet.begin()
    with fleet.engine.begin() as connection:
        connection.execute(update(chunks).values(state="pending", worker=None))
    with pytest.raises(FencedOff):
        fleet.settle_all(slow)
    assert (fleet.rows(), fleet.left()) == ({}, {640, 641, 642, 643, 644})


def test_outcomes_stored_twice_at_once_count_once(fleet: Fleet) -> None:
    claimed = fleet.begin()
    barrier = threading.Barrier(2)

    def settle(_: int) -> None:
        barrier.wait()
        fleet.settle_all(claimed)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(settle, range(2)))
    assert len(fleet.rows()) == IMAGES
    assert fleet.tallies() == [(5, 0, {})]


def test_only_images_with_transient_errors_are_retried_later(fleet: Fleet) -> None:
    stored = fleet.store.store(
        fleet.begin(),
        of({640: CLASSIFIED, 641: failed("timeout"), 642: failed("http_503"),
            643: failed("http_404"), 644: CLASSIFIED}),
    )  # fmt: skip
    assert (stored.classified, stored.failed, stored.retried) == (2, {"http_404": 1}, 2)
    chunk = fleet.chunk()
    assert (chunk.state, chunk.attempt, chunk.worker) == ("pending", 1, None)
    assert fleet.left() == {641, 642}
    assert 0 <= fleet.waits_s() + 1 <= 11

    again = fleet.begin()
    assert (again.attempt, set(again.images)) == (2, {641, 642})
    fleet.store.store(again, of({641: CLASSIFIED, 642: failed("http_503")}))
    last = fleet.begin()
    assert (last.attempt, set(last.images)) == (3, {642})
    fleet.store.store(last, of({642: failed("http_503")}))

    rows = fleet.rows()
    assert {position: row.attempts for position, row in rows.items()} == {
        640: 1, 641: 2, 642: 3, 643: 1, 644: 1,
    }  # fmt: skip
    assert rows[642].error_code == "http_503"
    assert fleet.chunk().state == "done"
    assert fleet.tallies() == [(2, 1, {"http_404": 1}), (1, 0, {}), (0, 1, {"http_503": 1})]


def test_each_image_waits_as_long_as_its_server_asks(fleet: Fleet) -> None:
    """Each image has its own count of attempts, however often the others run meanwhile."""
    busy = {642: failed("http_429", retry_after_s=3600.0), 643: failed("http_503", retry_after_s=0)}
    outcomes = busy | {640: CLASSIFIED, 641: CLASSIFIED, 644: failed("timeout")}
    fleet.store.store(fleet.begin(), of(outcomes))
    assert fleet.left() == {642, 643, 644}
    assert fleet.waits_s() <= 11

    for attempt in (2, 3):
        claimed = fleet.begin()
        assert (claimed.attempt, set(claimed.images)) == (attempt, {643, 644})
        fleet.store.store(claimed, of({643: busy[643], 644: failed("timeout")}))
    assert {position: row.attempts for position, row in fleet.rows().items()} == {
        640: 1, 641: 1, 643: 3, 644: 3,
    }  # fmt: skip
    assert (fleet.left(), fleet.chunk().state) == ({642}, "pending")
    assert 3580 < fleet.waits_s() <= 3601
    last = fleet.begin()
    assert (last.attempt, set(last.images)) == (2, {642})
    fleet.store.store(last, of({642: CLASSIFIED}))
    assert (fleet.chunk().state, fleet.chunk().later, len(fleet.rows())) == ("done", None, IMAGES)


def test_an_image_waits_at_most_twice_as_long_as_its_server_asks(fleet: Fleet) -> None:
    asked_s = {640 + n: 100.0 * 1.7**n for n in range(IMAGES)}
    outcomes = {
        position: failed("http_429", retry_after_s=wait_s) for position, wait_s in asked_s.items()
    }
    fleet.store.store(fleet.begin(), of(outcomes))
    chunk = fleet.chunk()
    due = {group.due: group.offsets for group in later.decode(chunk.later)}
    due[chunk.due_at.timestamp()] = tuple(
        later.current(remaining.decode(chunk.remaining), chunk.later)
    )
    assert sorted(offset for offsets in due.values() for offset in offsets) == [*range(IMAGES)]
    for moment, offsets in due.items():
        for offset in offsets:
            wait_s = moment - chunk.now.timestamp()
            assert asked_s[FIRST + offset] - 2 < wait_s <= 2 * asked_s[FIRST + offset]


def test_a_failing_device_costs_its_images_no_attempt(fleet: Fleet) -> None:
    """Images that had an outcome keep it: a failed DNS lookup still counts as an attempt."""
    runs = Runs(fleet.store, chunk_images=64)
    for _ in range(2 * 3):
        run = ChunkRun(fleet.begin())
        runs.enter(run)
        assert run.claim.attempt == 1
        run.fail(ClassifierFault("device fell off"))
        assert runs.store(run) is not None
        assert (fleet.chunk().state, fleet.chunk().attempt) == ("pending", 0)
        assert 1 < fleet.waits_s() <= 10
    run = ChunkRun(fleet.begin())
    runs.enter(run)
    run.settle({640: failed("http_404"), 641: failed("dns")})
    run.fail(ClassifierFault("device fell off"))
    runs.store(run)
    assert {position: row.error_code for position, row in fleet.rows().items()} == {640: "http_404"}
    attempts = {}
    while fleet.left():
        claimed = fleet.begin()
        attempts |= dict.fromkeys(claimed.images, claimed.attempt)
        fleet.settle_all(claimed)
    assert attempts == {641: 2, 642: 1, 643: 1, 644: 1}


def test_no_server_can_delay_an_image_for_days(fleet: Fleet) -> None:
    outcomes = dict.fromkeys(range(640, 644), CLASSIFIED)
    fleet.store.store(
        fleet.begin(), of(outcomes | {644: failed("http_429", retry_after_s=10.0**9)})
    )
    assert 3590 < fleet.waits_s() <= 3601


def test_stragglers_stay_with_the_worker_and_are_stored_later(fleet: Fleet) -> None:
    claimed = fleet.begin()
    early = {640: CLASSIFIED, 641: failed("timeout")}
    stored = fleet.store.store(claimed, of(early, {642, 643, 644}))
    assert (stored.positions, stored.retried, stored.loading) == ({640}, 1, 3)
    chunk = fleet.chunk()
    assert (chunk.state, chunk.worker, chunk.attempt) == ("running", "w1", 1)
    assert fleet.left() == {641, 642, 643, 644}
    assert set(fleet.rows()) == {640}

    late = {641: early[641], 642: CLASSIFIED, 643: failed("connect"), 644: failed("not_found")}
    fleet.store.store(claimed, of(late))
    assert (fleet.chunk().state, fleet.left()) == ("pending", {641, 643})
    assert fleet.tallies() == [(1, 0, {}), (1, 1, {"not_found": 1})]


def test_images_handed_back_are_due_at_once_and_lose_no_attempt(fleet: Fleet) -> None:
    stored = fleet.store.store(
        fleet.begin(), of({640: CLASSIFIED}, {641, 642, 643, 644}, closed=True)
    )
    assert (stored.classified, stored.handed_back, stored.loading) == (1, 4, 0)
    chunk = fleet.chunk()
    assert (chunk.state, chunk.attempt, chunk.worker) == ("pending", 0, None)
    assert fleet.waits_s() <= 0
    assert fleet.left() == {641, 642, 643, 644}


# Deferral: images whose host had no free place


def deferring(outcomes: dict[int, Outcome]) -> Snapshot:
    """A snapshot with these outcomes. All other images were deferred."""
    rest = frozenset(range(FIRST, FIRST + IMAGES)) - outcomes.keys()
    return of(outcomes, rest, closed=True, deferred=rest)


def deferring_of(claimed: Claim, outcomes: dict[int, Outcome]) -> Snapshot:
    """The same for a run: its other images were deferred."""
    rest = frozenset(claimed.images) - outcomes.keys()
    return of(outcomes, rest, closed=True, deferred=rest)


def test_deferred_images_come_again_later_at_no_attempt(fleet: Fleet) -> None:
    stored = fleet.store.store(fleet.begin(), deferring({}))
    assert (stored.classified, stored.deferred, stored.loading) == (0, 5, 0)
    chunk = fleet.chunk()
    assert (chunk.state, chunk.attempt, chunk.worker) == ("pending", 0, None)
    assert SHORTEST_DEFERRAL_S - 1 < fleet.waits_s() <= LONGEST_DEFERRAL_S
    assert len(fleet.left()) == IMAGES


def test_deferred_images_lose_no_attempt_when_others_finish(fleet: Fleet) -> None:
    fleet.store.store(fleet.begin(), deferring({640: CLASSIFIED, 641: failed("http_404")}))
    assert (fleet.chunk().attempt, fleet.left()) == (0, {642, 643, 644})


def test_deferred_images_do_not_share_the_attempts_of_failed_ones(fleet: Fleet) -> None:
    busy = failed("http_429", retry_after_s=100.0)
    fleet.store.store(fleet.begin(), deferring({640: CLASSIFIED, 641: busy}))
    assert (fleet.chunk().attempt, fleet.left()) == (0, {641, 642, 643, 644})
    assert SHORTEST_DEFERRAL_S - 1 < fleet.waits_s() <= LONGEST_DEFERRAL_S
    claimed = fleet.begin()
    assert (claimed.attempt, set(claimed.images)) == (1, {642, 643, 644})
    fleet.settle_all(claimed)
    assert (fleet.chunk().attempt, fleet.left()) == (1, {641})
    assert 90 < fleet.waits_s() <= 100


def test_endless_deferrals_do_not_keep_other_images_from_ending(fleet: Fleet) -> None:
    seen = Counter[int]()
    while 640 not in fleet.rows():
        claimed = fleet.begin()
        seen.update(claimed.images.keys())
        fleet.store.store(
            claimed,
            deferring_of(claimed, {640: failed("timeout")} if 640 in claimed.images else {}),
        )
    assert seen[640] == 3
    assert fleet.rows()[640].attempts == 3
    assert fleet.begin().attempt == 1


def test_while_images_load_the_worker_keeps_the_chunk_with_deferred_ones(
    fleet: Fleet,
) -> None:
    claimed = fleet.begin()
    rest = frozenset({641, 642, 643, 644})
    stored = fleet.store.store(claimed, of({640: CLASSIFIED}, rest, deferred=frozenset({643, 644})))
    assert (stored.loading, stored.deferred, stored.handed_back) == (2, 2, 0)
    assert (fleet.chunk().state, fleet.chunk().attempt) == ("running", 1)
    late = dict.fromkeys((641, 642), CLASSIFIED)
    left = frozenset({643, 644})
    fleet.store.store(claimed, of(late, left, closed=True, deferred=left))
    assert (fleet.chunk().state, fleet.chunk().attempt, fleet.left()) == ("pending", 0, left)


def test_a_chunk_put_back_after_a_fault_is_due_later_at_one_attempt(fleet: Fleet) -> None:
    claimed = fleet.begin()
    fleet.store.put_back(claimed.fence, "ZeroDivisionError: by zero")
    assert (fleet.chunk().state, fleet.chunk().attempt) == ("pending", 1)
    assert fleet.chunk().fault == "ZeroDivisionError: by zero"
    assert fleet.waits_s() > 1
    assert fleet.left() == {640, 641, 642, 643, 644}
    fleet.as_worker("w2").begin()
    fleet.store.put_back(claimed.fence, "late")
    assert (fleet.chunk().state, fleet.chunk().worker) == ("running", "w2")


def test_a_chunk_whose_runs_all_failed_ends_as_internal(fleet: Fleet) -> None:
    """SQL alone does this, without the run, because the run is what failed."""
    for attempt in (1, 2, 3):
        assert fleet.rows() == {}
        assert fleet.store.put_back(fleet.begin().fence, "E", attempt=attempt) == 5 * (attempt == 3)
    rows = fleet.rows()
    assert [(row.uri, row.ref, row.attempts) for _, row in sorted(rows.items())] == [
        (f"https://a.example/{n}.jpg", ref, 3)
        for n, ref in enumerate(["r0", None, "r2", "r3", "r4"])
    ]
    assert {row.error_code for row in rows.values()} == {"internal"}
    assert (fleet.chunk().state, fleet.tallies()) == ("done", [(0, 5, {"internal": 5})])


def test_a_fault_in_the_claim_counts_as_an_attempt(fleet: Fleet) -> None:
    runs = Runs(fleet.store, chunk_images=64)
    for attempt in (1, 2, 3):
        message = fleet.publish()
        runs.fail_claim(message, IndexError("list index out of range"))
        assert fleet.chunk().attempt == (attempt if attempt < 3 else 0)
        assert fleet.chunk().fault == "IndexError: list index out of range"
    assert {row.error_code for row in fleet.rows().values()} == {"internal"}
    assert fleet.chunk().state == "done"


def test_a_fault_costs_waiting_images_no_attempt(fleet: Fleet) -> None:
    busy = {644: failed("http_429", retry_after_s=1000.0)}
    fleet.store.store(fleet.begin(), of(dict.fromkeys(range(640, 644), failed("timeout")) | busy))
    for _ in (2, 3):
        fleet.store.put_back(fleet.begin().fence, "E")
    assert set(fleet.rows()) == {640, 641, 642, 643}
    assert (fleet.chunk().state, fleet.left(), fleet.chunk().attempt) == ("pending", {644}, 1)
    assert 900 < fleet.waits_s() <= 1000


def test_a_chunk_without_a_run_is_put_back(fleet: Fleet) -> None:
    """This happens after a fault if the chunk could not be put back then."""
    runs = Runs(fleet.store, chunk_images=64)
    run = ChunkRun(fleet.begin())
    with runs.claiming(run.claim.fence):
        runs.put_back_orphans()
        assert fleet.chunk().state == "running"
        runs.enter(run)
    runs.put_back_orphans()
    assert fleet.chunk().state == "running"
    runs._leave(run)  # without storing the chunk or putting it back
    runs.put_back_orphans()
    assert (fleet.chunk().state, fleet.chunk().attempt) == ("pending", 1)
    runs.put_back_orphans()
    assert fleet.chunk().state == "pending"


def test_a_chunk_stored_during_the_search_is_no_orphan(fleet: Fleet, caplog, monkeypatch) -> None:
    runs = Runs(fleet.store, chunk_images=64)
    run = ChunkRun(fleet.begin())
    runs.enter(run)
    held_by = moves.held_by

    def then_store(connection: Connection, worker: str) -> set[Fence]:
        found = held_by(connection, worker)
        runs._leave(run)
        return found

    monkeypatch.setattr(moves, "held_by", then_store)
    runs.put_back_orphans()
    assert "has lost its run" not in caplog.text


def test_an_internal_fault_keeps_results_and_marks_the_other_images(fleet: Fleet, caplog) -> None:
    runs = Runs(fleet.store, chunk_images=64)
    for attempt in (1, 2, 3):
        run = ChunkRun(fleet.begin())
        assert run.claim.attempt == attempt
        runs.enter(run)
        run.settle({640: CLASSIFIED} if attempt == 1 else {})
        runs.fail(run, ZeroDivisionError("by zero"))
        assert len(runs) == 0
        assert fleet.chunk().fault == "ZeroDivisionError: by zero"
        assert set(fleet.rows()) == ({640} if attempt < 3 else {*range(640, 645)})
    rows = fleet.rows()
    assert rows.pop(640).class_1 == 281
    assert {row.error_code for row in rows.values()} == {"internal"}
    assert {row.error_detail for row in rows.values()} == {"ZeroDivisionError"}
    assert (fleet.chunk().state, fleet.tallies()) == (
        "done", [(1, 0, {}), (0, 4, {"internal": 4})],
    )  # fmt: skip
    assert caplog.text.count("by zero") == 3


def test_an_image_that_cannot_be_stored_costs_no_other(fleet: Fleet) -> None:
    runs = Runs(fleet.store, chunk_images=64)
    odd = Outcome(TABBY, Provenance(bytes=object()))  # type: ignore[arg-type]
    for attempt in (1, 2, 3):
        run = ChunkRun(fleet.begin())
        runs.enter(run)
        assert run.claim.attempt == attempt
        run.settle(
            {position: odd if position == 643 else CLASSIFIED for position in run.claim.images}
        )
        with pytest.raises((DBAPIError, TypeError)) as fault:
            runs.store(run)
        runs.fail(run, fault.value)
        assert set(fleet.rows()) - {643} == {640, 641, 642, 644}
        assert fleet.left() == ({643} if attempt < 3 else set())
    assert (fleet.rows()[643].error_code, fleet.rows()[643].attempts) == ("internal", 3)
    assert fleet.chunk().state == "done"


def test_metrics_count_each_stored_image_once(fleet: Fleet) -> None:
    """A run with stragglers is stored twice. Its images to retry stay with it until the end."""
    metrics = Metrics()
    runs = Runs(fleet.store, chunk_images=64, metrics=metrics)
    run = ChunkRun(fleet.begin())
    runs.enter(run)
    for position in run.claim.images:
        run.begin_loading([position])
    late = failed("timeout")._replace(measured=(20.0,))
    for position, outcome in [(640, CLASSIFIED), (641, failed("http_404")), (642, late)]:
        run.settle({position: outcome})
    stored = runs.store(run)
    assert stored is not None
    assert stored.stages.bytes == 1234
    assert metrics.read()["resnext_images_total"] == {
        ("classified", ""): 1, ("failed", "http_404"): 1, ("handed_back", ""): 0,
        ("deferred", ""): 0,
    }  # fmt: skip
    run.settle({643: CLASSIFIED})
    run.drain()
    assert runs.store(run) is not None
    assert metrics.read()["resnext_images_total"] == {
        ("classified", ""): 2, ("failed", "http_404"): 1, ("handed_back", ""): 1,
        ("retried", "timeout"): 1, ("deferred", ""): 0,
    }  # fmt: skip
    assert metrics.read()["resnext_fetch_seconds"].sum == 20.0
    assert metrics.read()["resnext_bytes_total"] == {(): 2468}
    assert len(fleet.rows()) == 3


def test_images_that_get_the_code_internal_are_counted(fleet: Fleet) -> None:
    metrics = Metrics()
    runs = Runs(fleet.store, chunk_images=64, metrics=metrics)
    for _ in range(3):
        run = ChunkRun(fleet.begin())
        runs.enter(run)
        runs.fail(run, ZeroDivisionError("by zero"))
    assert metrics.read()["resnext_images_total"]["failed", "internal"] == len(fleet.rows()) == 5


def test_a_run_that_was_fenced_off_counts_nothing(fleet: Fleet) -> None:
    metrics = Metrics()
    runs = Runs(fleet.store, chunk_images=64, metrics=metrics)
    run = ChunkRun(fleet.begin())
    runs.enter(run)
    run.settle({640: CLASSIFIED})
    with fleet.engine.begin() as connection:
        connection.execute(update(chunks).values(state="pending", worker=None))
    assert runs.store(run) is None
    assert metrics.read()["resnext_images_total"] == {}


# A database that does not answer


@contextmanager
def lost_answers(engine: Engine, commits: int) -> Iterator[None]:
    """Commit the next transactions, but report an error for each."""
    left = [commits]
    lock = threading.Lock()
    commit = engine.dialect.do_commit

    def do_commit(connection: Any) -> None:
        commit(connection)
        with lock:
            if left[0]:
                left[0] -= 1
                raise OperationalError("COMMIT", {}, Exception("the connection broke"))

    engine.dialect.do_commit = do_commit
    try:
        yield
    finally:
        engine.dialect.do_commit = commit


@pytest.fixture
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contract.database.waits.FIRST_WAIT_S", 0.01)


@pytest.mark.usefixtures("_no_waits")
def test_a_claim_succeeds_although_its_commit_was_not_reported(fleet: Fleet) -> None:
    message = fleet.publish()
    with lost_answers(fleet.engine, 1):
        claimed = fleet.claim(message)
    assert claimed is not None
    assert (claimed.attempt, fleet.chunk().attempt) == (1, 1)


@pytest.mark.usefixtures("_no_waits")
@pytest.mark.parametrize("unsettled", [set(), {644}], ids=["done", "straggler"])
def test_outcomes_whose_commit_was_not_reported_are_stored_once(fleet: Fleet, unsettled) -> None:
    claimed = fleet.begin()
    outcomes = dict.fromkeys(set(claimed.images) - unsettled, CLASSIFIED)
    with lost_answers(fleet.engine, 2):
        stored = fleet.store.store(claimed, of(outcomes, unsettled))
    assert stored.positions == set(outcomes)
    assert set(fleet.rows()) == set(outcomes)
    assert fleet.tallies() == [(len(outcomes), 0, {})]
    if unsettled:
        fleet.store.store(claimed, of(dict.fromkeys(unsettled, CLASSIFIED)))
    assert (len(fleet.rows()), fleet.chunk().state) == (IMAGES, "done")


@pytest.mark.usefixtures("_no_waits")
def test_an_outage_is_waited_out_and_logged_at_its_start_and_end(
    fleet: Fleet, caplog, monkeypatch
) -> None:
    caplog.set_level(logging.INFO)
    claimed = fleet.begin()
    away = threading.Event()
    away.set()
    tried = threading.Semaphore(0)

    def refuse(_connection: Any) -> None:
        if away.is_set():
            tried.release()
            raise OperationalError("BEGIN", {}, Exception("no route to host"))

    event.listen(fleet.engine, "begin", refuse)
    thread = threading.Thread(target=fleet.settle_all, args=(claimed,))
    thread.start()
    for _ in range(3):
        assert tried.acquire(timeout=10)
    away.clear()
    thread.join(30)
    event.remove(fleet.engine, "begin", refuse)

    assert len(fleet.rows()) == IMAGES
    spoken = [
        record.message for record in caplog.records if record.name == "contract.database.waits"
    ]
    assert len(spoken) == 2
    assert "does not answer; retrying: no route to host" in spoken[0]
    assert "is back" in spoken[1]


# Registration and presence


def test_workers_that_start_at_once_register_one_model_with_its_labels(database_url: str) -> None:
    engines = [make_engine(database_url) for _ in range(4)]
    barrier = threading.Barrier(len(engines))

    def start(n: int) -> int:
        barrier.wait()
        return register(Database(engines[n]), Settings(), CLASSIFIER, f"w{n}").model_number

    with ThreadPoolExecutor(len(engines)) as pool:
        numbers = list(pool.map(start, range(len(engines))))
    with reading(engines[0]) as connection:
        model = connection.execute(select(models)).one()
        found = connection.execute(select(labels.c.class_id, labels.c.label)).all()
    for engine in engines:
        engine.dispose()
    assert set(numbers) == {model.number}
    assert (model.weights, model.title) == ("tuned.pth", "resnext101_32x4d/tuned")
    assert sorted(found) == [(n, f"label {n}") for n in range(1000)]


def test_a_worker_has_a_row_from_its_start_to_its_end(fleet: Fleet) -> None:
    beats = threading.Semaphore(0)

    def images_per_s() -> float:
        beats.release()
        return 12.5

    presence = Presence(fleet.database, fleet.identity, lease_s=0.5, images_per_s=images_per_s)

    def row() -> Any:
        with reading(fleet.engine) as connection:
            return connection.execute(select(workers)).one_or_none()

    presence.start()
    first = row()
    assert (first.name, first.queue, first.device, first.stopping) == ("w1", QUEUE, "cpu", False)
    assert first.images_per_s == 12.5
    for _ in range(3):
        assert beats.acquire(timeout=10)
    assert row().heartbeat_at > first.heartbeat_at
    assert row().started_at == first.started_at

    with fleet.engine.begin() as connection:  # its row is deleted, as if it were dead
        connection.execute(workers.delete())
    while row() is None:
        assert beats.acquire(timeout=10)
    presence.announce_stop()
    while not row().stopping:
        assert beats.acquire(timeout=10)
    presence.close()
    assert row() is None
