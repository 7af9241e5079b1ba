"""A job's life as a Hypothesis state machine: any order of moves and faults, on real servers.

The dispatcher, claim and store are real. The tests play only a worker's loaders and classifier. A
message taken from Redis may be delivered at once, late, again or never. After each move, the test
reads all tables and compares them with the previous look. At the end everything runs on without
faults, and every job must end.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from celery import Celery
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from sqlalchemy import Engine, delete, select, update

from contract import remaining
from contract.broker.connection import redis_of
from contract.broker.message import ChunkMessage
from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import chunks, jobs, leaders, results, workers
from contract.database.waits import Database
from contract.errors import JobStateError
from contract.settings import Settings
from producer.dispatcher.loop import Dispatcher
from producer.dispatcher.suspects import CRASHES_TO_CONDEMN
from producer.jobs.cancel import cancel
from producer.jobs.job import Job
from producer.jobs.listed import Filter, list_jobs
from producer.jobs.retry import retry
from producer.submit.key import KeyConflictError
from producer.submit.submission import submit
from tests.integration.dispatching import (
    Clock,
    add_worker,
    change_chunks,
    change_job,
    change_worker,
    identity_of,
    take,
    waiting,
)
from tests.integration.ending import CLASSIFIED, MODEL_NUMBER, assert_classes_true, failed
from worker.chunk.claim import begin_alone, claim
from worker.chunk.live_runs import Runs
from worker.chunk.outcome import Outcome
from worker.chunk.run import ChunkRun
from worker.chunk.store import Store

CHUNK_IMAGES = 3
MOST_IMAGES = 3 * CHUNK_IMAGES - 1
MOST_JOBS = 4
MAX_ATTEMPTS = 2
# Long enough never to elapse within a life. The test makes chunks due when it wants to.
BACKOFF_S = 100_000.0
EXPIRES_S = 86_400.0
# By the dispatcher's clock: more than a message's grace period, less than half a lease.
TICK_S = 10.0
TICKS_A_LEASE = 4
ROUNDS_TO_THE_END = 60
PASSING, FINAL = "timeout", "http_404"
EDGES = {
    ("submitting", "cancelled"),
    ("running", "completed"),
    ("running", "cancelled"),
    ("running", "expired"),
}
EDGES_OF_RETRY = {(ended, "running") for ended in ("completed", "cancelled", "expired")}

some = st.integers(0, 11)
"""An index into what exists, modulo its length."""
keys = st.sampled_from([None, None, "a", "b"])
an_outcome = st.sampled_from([CLASSIFIED, failed(FINAL), failed(PASSING)])
outcomes = st.lists(an_outcome, max_size=CHUNK_IMAGES)


@dataclass(frozen=True)
class Look:
    """The contents of SQL at one moment.

    Keys use a job's public id, because SQLite reuses numbers.
    """

    jobs: dict[str, Job] = field(default_factory=dict)
    chunks: dict[tuple[str, int], Any] = field(default_factory=dict)
    rows: dict[tuple[str, int], Any] = field(default_factory=dict)

    @classmethod
    def at(cls, engine: Engine) -> Look:
        with reading(engine) as connection:
            found = {job.number: job for job in list_jobs(connection, Filter(), limit=1000)}
            pieces = connection.execute(select(chunks)).all()
            rows = connection.execute(
                select(
                    results.c.job_number,
                    results.c.position,
                    results.c.error_code,
                    results.c.attempts,
                    results.c.worker,
                    results.c.settled_at,
                )
            ).all()
        by_image = {(found[row.job_number].id, row.position): row for row in rows}
        assert len(by_image) == len(rows), "an image has two rows"
        return cls(
            {job.id: job for job in found.values()},
            {(found[piece.job_number].id, piece.chunk): piece for piece in pieces},
            by_image,
        )

    def chunk_of(self, message: ChunkMessage) -> Any:
        return self.chunks[message.job, message.chunk]

    def left(self, job: str) -> list[int]:
        """The positions of the job's images that have no row yet."""
        return [
            piece.first_position + offset
            for (of_job, _), piece in self.chunks.items()
            if of_job == job
            for offset in remaining.decode(piece.remaining)
        ]

    def codes(self, job: str) -> list[str | None]:
        """The error codes of the job's images with a row. None means classified."""
        return [row.error_code for (of_job, _), row in self.rows.items() if of_job == job]


class Worker:
    """One life of a worker, and its runs in progress."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.name = name
        self.in_hand: list[ChunkRun] = []
        self._engine = engine
        self._database = Database(engine)
        self._identity = identity_of(name, MODEL_NUMBER)
        store = Store(
            self._database, self._identity, max_attempts=MAX_ATTEMPTS, retry_backoff_s=BACKOFF_S
        )
        self.runs = Runs(store, chunk_images=CHUNK_IMAGES)
        self.beat()

    def beat(self) -> None:
        if not self._set_heartbeat(age_s=0.0):
            add_worker(self._engine, self.name)

    def age(self, seconds: float) -> None:
        """Let the last heartbeat be this old."""
        self._set_heartbeat(seconds)

    def _set_heartbeat(self, age_s: float) -> int:
        mine = update(workers).where(workers.c.name == self.name)
        with self._engine.begin() as connection:
            return connection.execute(mine.values(heartbeat_at=db_now(-age_s))).rowcount

    @property
    def runs_alone(self) -> bool:
        return any(run.claim.message.alone for run in self.in_hand)

    def would_wait(self, message: ChunkMessage) -> bool:
        """Whether the worker would wait for its other runs to end."""
        return bool(self.in_hand) if message.alone else self.runs_alone

    def claim(self, message: ChunkMessage) -> bool:
        claimed = claim(self._database, self._identity, message)
        if claimed is None:
            return False
        if message.alone:
            self.runs.gate.enter_alone()
            begin_alone(self._database, self._identity, claimed)
        else:
            self.runs.gate.enter()
        run = ChunkRun(claimed)
        self.runs.enter(run)
        self.in_hand.append(run)
        return True

    def store(self, run: ChunkRun) -> bool:
        """Store the run. False means that it was fenced off."""
        stored = self.runs.store(run)
        if stored is None or not stored.loading:
            self.in_hand.remove(run)
        return stored is not None

    def holds(self, piece: Any, run: ChunkRun) -> bool:
        """Whether the chunk belongs to this run, according to SQL."""
        it_has = (piece.state, piece.worker, piece.generation)
        return it_has == ("running", self.name, run.claim.message.generation)


class Life(RuleBasedStateMachine):
    """Owns the state outside SQL: messages in transit, workers and the dispatcher."""

    def __init__(self, engine: Engine, app: Celery, settings: Settings, clock: Clock) -> None:
        super().__init__()
        self.engine, self.app, self.clock = engine, app, clock
        self.settings = settings.model_copy(update={"chunk_images": CHUNK_IMAGES})
        self._clear()
        self.seen = Look()
        self.retried: str | None = None
        """The job that the last move retried."""
        self.keys: dict[str, str] = {}
        self.taken: list[ChunkMessage] = []
        self.crashes: Counter[tuple[str, int]] = Counter()
        """Crashes by image, counted while the image ran alone."""
        self.lives = 0
        self.dispatcher = self._new_dispatcher()
        self.workers = [self._new_worker() for _ in range(2)]

    def _clear(self) -> None:
        with self.engine.begin() as connection:
            for table in (jobs, workers, leaders):
                connection.execute(delete(table))
        redis_of(self.app).flushall()

    def _new_dispatcher(self) -> Dispatcher:
        return Dispatcher(self.engine, self.app, self.settings)

    def _new_worker(self) -> Worker:
        self.lives += 1
        return Worker(self.engine, f"w{self.lives}")

    @initialize(images=st.integers(1, MOST_IMAGES))
    def begin(self, images: int) -> None:
        """Start with a dispatcher that has run for a lease, so that it may reap."""
        for _ in range(TICKS_A_LEASE):
            self._tick()
        self.submit(images=images, priority=0, expires_s=None, key=None)

    # The user

    @precondition(lambda self: len(self.seen.jobs) < MOST_JOBS)
    @rule(
        images=st.integers(1, MOST_IMAGES),
        priority=st.sampled_from([0, 0, 5]),
        expires_s=st.sampled_from([None, EXPIRES_S]),
        key=keys,
    )
    def submit(self, images: int, priority: int, expires_s: float | None, key: str | None) -> None:
        uris = [(f"https://a.example/{n}.jpg", None) for n in range(images)]
        wanted = {"key": key, "priority": priority, "expires_s": expires_s}
        earlier = self.keys.get(key)
        if earlier is not None and self.seen.jobs[earlier].total != images:
            with pytest.raises(KeyConflictError):
                submit(self.engine, uris, settings=self.settings, **wanted)
            return
        job = submit(self.engine, uris, settings=self.settings, **wanted)
        assert (job in self.seen.jobs) == (key in self.keys)
        if key is not None:
            assert self.keys.setdefault(key, job) == job
        # Chunks are published in order of their numbers, so that a life can be replayed.
        change_chunks(self.engine, self._number(job), shuffle=chunks.c.chunk)

    @precondition(lambda self: len(self.seen.jobs) < MOST_JOBS)
    @rule(images=st.integers(1, MOST_IMAGES), key=keys)
    def die_in_a_submit(self, images: int, key: str | None) -> None:
        """Leave what a killed submit leaves, unless a job has this key."""
        if key not in self.keys:
            self.submit(images=images, priority=9, expires_s=None, key=key)
            (job,) = Look.at(self.engine).jobs.keys() - self.seen.jobs.keys()
            change_job(self.engine, self._number(job), state="submitting", total=0)
            self.keys.pop(key, None)

    def _number(self, job: str) -> int:
        with reading(self.engine) as connection:
            return connection.execute(select(jobs.c.number).where(jobs.c.id == job)).scalar_one()

    @rule(which=some)
    def cancel(self, which: int) -> None:
        job = self._job(which)
        ended_otherwise = job.state in ("completed", "expired")
        try:
            cancel(self.engine, job.id)
        except JobStateError:
            assert ended_otherwise
        else:
            assert not ended_otherwise

    @precondition(lambda self: any(row.error_code for row in self.seen.rows.values()))
    @rule(which=some, codes=st.sampled_from([(), (FINAL,), (PASSING, "cancelled")]))
    def retry(self, which: int, codes: tuple[str, ...]) -> None:
        job = self._job(which)
        self.retried = job.id
        may = job.state in ("running", "completed") or job.is_finished
        try:
            again = retry(self.engine, job.id, codes)
        except JobStateError:
            assert not may
        else:
            assert may
            failures = [code for code in self.seen.codes(job.id) if code is not None]
            wanted = [code for code in failures if not codes or code in codes]
            assert again.images + again.left == len(wanted)

    @precondition(lambda self: any(job.expires_at for job in self.seen.jobs.values()))
    @rule()
    def let_time_be_over(self) -> None:
        """Let the time limit of every job that has one expire."""
        with self.engine.begin() as connection:
            connection.execute(
                update(jobs).where(jobs.c.expires_at.is_not(None)).values(expires_at=db_now(-1))
            )

    def _job(self, which: int) -> Job:
        found = sorted(self.seen.jobs.values(), key=lambda job: job.number)
        return found[which % len(found)]

    # The dispatcher, and its clock

    @rule(ticks=st.integers(1, 3), due=st.booleans())
    def dispatch(self, ticks: int, *, due: bool) -> None:
        """Some ticks. With `due`, all pending chunks become due first."""
        if due:
            self._let_all_be_due()
        for _ in range(ticks):
            self._tick()
            self.compare()

    def _let_all_be_due(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(
                update(chunks).where(chunks.c.state == "pending").values(due_at=db_now())
            )

    @rule()
    def dispatch_without_redis(self) -> None:
        self.clock.seconds += TICK_S
        self.dispatcher._keep_counts()

    @rule()
    def replace_the_dispatcher(self) -> None:
        """The old one's memory is lost, and its term ends, so that the new one leads."""
        self.dispatcher = self._new_dispatcher()
        with self.engine.begin() as connection:
            connection.execute(update(leaders).values(held_at=db_now(-60)))

    def _tick(self) -> None:
        self._let_the_database_clock_move()
        self.clock.seconds += TICK_S
        self.dispatcher.tick()
        assert self.dispatcher._leads
        away = self.dispatcher._database, self.dispatcher._redis
        assert not any(outage.wait_s for outage in away), "an error was mistaken for an outage"

    def _let_the_database_clock_move(self) -> None:
        """Wait for SQLite's next millisecond: equal times would not count as older."""
        with reading(self.engine) as connection:
            began = connection.scalar(select(db_now()))
            while connection.scalar(select(db_now())) == began:
                time.sleep(0.0002)

    # Messages in transit

    @precondition(lambda self: waiting(self.app))
    @rule(whose=st.lists(some, min_size=1, max_size=3))
    def deliver(self, whose: list[int]) -> None:
        for which in whose[: len(waiting(self.app))]:
            self._deliver(self._take(), which)
            self.compare()

    @precondition(lambda self: waiting(self.app))
    @rule(everything=st.booleans())
    def lose(self, *, everything: bool) -> None:
        """Take messages without delivering them. They come late or never."""
        for _ in range(len(waiting(self.app)) if everything else 1):
            self._take()

    @precondition(lambda self: self.taken)
    @rule(message=some, which=some)
    def deliver_late_or_again(self, message: int, which: int) -> None:
        self._deliver(self.taken[message % len(self.taken)], which)

    def _take(self) -> ChunkMessage:
        message = take(self.app).message
        self.taken.append(message)
        return message

    def _deliver(self, message: ChunkMessage, which: int) -> None:
        worker = self.workers[which % 2]
        if worker.would_wait(message):  # it can be delivered later
            return
        piece, job = self.seen.chunk_of(message), self.seen.jobs[message.job]
        wanted = (piece.state, piece.generation, job.state)
        claimed = worker.claim(message)
        assert claimed == (wanted == ("queued", message.generation, "running"))

    # Workers

    @precondition(lambda self: self._in_hand())
    @rule(which=some, outcomes=outcomes)
    def settle_some(self, which: int, outcomes: list[Outcome]) -> None:
        """Some images finish. The others still load."""
        worker, run = self._run(which)
        self._settle(run, outcomes)
        self._store(worker, run)

    @precondition(lambda self: self._in_hand())
    @rule(which=some, outcome=an_outcome)
    def settle_all(self, which: int, outcome: Outcome) -> None:
        worker, run = self._run(which)
        self._settle(run, [outcome] * CHUNK_IMAGES)
        self._store(worker, run)

    @precondition(lambda self: self._in_hand())
    @rule(which=some, outcomes=outcomes)
    def defer(self, which: int, outcomes: list[Outcome]) -> None:
        """Some images finish. The host has no free place for the others."""
        worker, run = self._run(which)
        self._settle(run, outcomes)
        run.defer(run.claim.images)
        self._store(worker, run)

    @precondition(lambda self: self._in_hand())
    @rule(which=some)
    def fail(self, which: int) -> None:
        """The worker itself fails."""
        worker, run = self._run(which)
        worker.runs.fail(run, RuntimeError("a fault planted by the test"))
        worker.in_hand.remove(run)

    @precondition(lambda self: self._in_hand())
    @rule(which=some, how=st.sampled_from(["stop", "kill", "crash", "crash", "freeze", "freeze"]))
    def end(self, which: int, how: str) -> None:
        """End a worker in one of four ways.

        A stopped worker hands back its runs. A killed or crashed one loses them. A frozen one
        outlasts its lease and may still store them.
        """
        worker, run = self._run(which)
        if how == "stop":
            self._hand_back(worker)
        elif how == "crash":
            self._crash(worker, run)
        else:
            worker.age(2 * self.settings.lease_s)
        if how != "freeze":
            self.workers[self.workers.index(worker)] = self._new_worker()

    def _crash(self, worker: Worker, run: ChunkRun) -> None:
        message = run.claim.message
        if message.alone and worker.holds(self.seen.chunk_of(message), run):
            self.crashes[message.job, message.positions[0]] += 1
        change_worker(self.engine, worker.name, crashed_by="SIGSEGV")

    def _hand_back(self, worker: Worker) -> None:
        worker.runs.drain()
        for run in list(worker.in_hand):
            self._store(worker, run)
            self.compare()

    @rule()
    def thaw(self) -> None:
        for worker in self.workers:
            worker.beat()

    def _in_hand(self) -> list[tuple[Worker, ChunkRun]]:
        return [(worker, run) for worker in self.workers for run in worker.in_hand]

    def _run(self, which: int) -> tuple[Worker, ChunkRun]:
        in_hand = self._in_hand()
        return in_hand[which % len(in_hand)]

    def _settle(self, run: ChunkRun, outcomes: Iterable[Outcome]) -> None:
        for position, outcome in zip(sorted(run._waiting), outcomes, strict=False):
            run.settle({position: outcome})

    def _store(self, worker: Worker, run: ChunkRun) -> None:
        holds = worker.holds(self.seen.chunk_of(run.claim.message), run)
        assert worker.store(run) == holds

    # Invariants

    @invariant()
    def compare(self) -> None:
        before, self.seen = self.seen, Look.at(self.engine)
        for job in self.seen.jobs.values():
            self._check_counts(job)
            with reading(self.engine) as connection:
                assert_classes_true(connection, job.number)
            if job.id in before.jobs:
                self._check_state(before.jobs[job.id], job)
        for key in before.chunks.keys() & self.seen.chunks.keys():
            self._check_chunk(key, before.chunks[key], self.seen.chunks[key])
        for key, row in before.rows.items():
            # A finished image keeps its row. Only the user's retry takes a failure back.
            taken_back = key not in self.seen.rows and row.error_code and key[0] == self.retried
            assert taken_back or self.seen.rows[key] == row
        for key, row in self.seen.rows.items():
            if row.error_code == "crashed":
                assert self.crashes[key] >= CRASHES_TO_CONDEMN
        self.retried = None

    def _check_counts(self, job: Job) -> None:
        codes = self.seen.codes(job.id)
        errors = Counter(code for code in codes if code is not None)
        positions = [position for of_job, position in self.seen.rows if of_job == job.id]
        left = self.seen.left(job.id)
        if job.state == "submitting":
            assert not positions, "an incomplete job was processed"
            return
        assert job.classified + job.failed + job.pending == job.total
        assert (job.classified, job.failed) == (len(codes) - errors.total(), errors.total())
        assert job.errors == dict(errors)
        assert sorted([*positions, *left]) == list(range(job.total))
        if job.finished_at is not None:
            assert job.pending == 0
        if job.state == "completed":
            assert job.finished_at is not None

    def _check_state(self, before: Job, after: Job) -> None:
        if before.state != after.state:
            edges = EDGES_OF_RETRY if after.id == self.retried else EDGES
            assert (before.state, after.state) in edges

    def _check_chunk(self, key: tuple[str, int], before: Any, after: Any) -> None:
        assert after.generation >= before.generation
        more = set(remaining.decode(after.remaining)) - set(remaining.decode(before.remaining))
        assert not more or key[0] == self.retried
        assert after.remaining_images == len(remaining.decode(after.remaining))
        assert (after.state == "done") == (after.remaining_images == 0)

    # The end

    def teardown(self) -> None:
        if sys.exc_info()[0] is not None:  # report the failed move
            return
        for _ in range(ROUNDS_TO_THE_END):
            self._go_on()
            self.compare()
            if all(job.is_finished or job.state == "submitting" for job in self.seen.jobs.values()):
                break
        for job in self.seen.jobs.values():
            if job.state != "submitting":
                assert job.is_finished, f"job {job.id} does not end"
                assert len(self.seen.codes(job.id)) == job.total

    def _go_on(self) -> None:
        for worker in self.workers:
            worker.beat()
        self._finish()
        self._let_all_be_due()
        self._tick()
        while waiting(self.app):
            self.compare()
            self._deliver(self._take(), 0)
            self._finish()

    def _finish(self) -> None:
        for worker, run in self._in_hand():
            self.compare()
            self._settle(run, [CLASSIFIED] * CHUNK_IMAGES)
            self._store(worker, run)
