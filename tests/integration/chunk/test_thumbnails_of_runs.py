"""From a batch to thumbnails in SQL: which images are chosen, and when they are written."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from celery import Celery
from PIL import Image
from sqlalchemy import Engine, delete, event, select
from sqlalchemy.exc import IntegrityError

from contract.database.engine import reading
from contract.database.tables import jobs, thumbnails
from contract.database.waits import Database
from contract.failure import Failure
from contract.settings import Settings
from producer.dispatcher.publish import publish
from producer.jobs.cancel import cancel
from producer.jobs.retry import retry
from producer.jobs.thumbnails import find_thumbnails
from tests.integration.dispatching import (
    change_chunks,
    change_job,
    identity_of,
    job_of,
    submit_chunks,
)
from tests.integration.ending import MODEL_NUMBER, claim_next, dispatch, submit_job
from tests.wait import until
from worker.batch.batch import Arrived
from worker.chunk.live_runs import Runs
from worker.chunk.outcome import Outcome, Prediction, Provenance
from worker.chunk.run import ChunkRun
from worker.chunk.store import Store
from worker.thumbnail import thumbnails as module
from worker.thumbnail.jpeg import JpegMaker
from worker.thumbnail.thumbnails import Thumbnails

CROP = 8
CLASSES = 10
HUGE = 10**12
"""In a job of this size, the first images are not in the sample."""
NOT_FINITE = -1
# Each image has a shade, so that a thumbnail shows which image it is of.
SHADES = 16


class Worker:
    """The part of a worker from its batches to SQL. Tests play the loaders and the device."""

    def __init__(self, engine: Engine, app: Celery, *, wanted: int = 500) -> None:
        database = Database(engine)
        self._engine, self._app = engine, app
        self.thumbnails = Thumbnails(database, wanted=wanted, classes=CLASSES)
        identity = identity_of("w1", MODEL_NUMBER)
        store = Store(database, identity, max_attempts=1, retry_backoff_s=0.0)
        self.runs = Runs(
            store,
            chunk_images=4,
            when_stored=self.thumbnails.stored,
            when_left=self.thumbnails.left,
        )

    def begin(self) -> ChunkRun:
        claimed = claim_next(self._engine, self._app)
        run = ChunkRun(claimed, sampled=self.thumbnails.sampled(claimed))
        self.runs.gate.enter()
        self.runs.enter(run)
        return run

    def classify(self, *answers: tuple[ChunkRun, dict[int, int]]) -> None:
        """Classify one batch with images of these runs. `answers` gives class ids by position."""
        parts = [
            Arrived(run, [(position, SimpleNamespace()) for position in classes], 0.0)  # type: ignore[misc]
            for run, classes in answers
        ]
        ids = [class_id for _, classes in answers for class_id in classes.values()]
        shades = [position % SHADES for _, classes in answers for position in classes]
        pixels = np.stack([np.full((CROP, CROP, 3), 16 * shade, np.uint8) for shade in shades])
        predictions: Any = SimpleNamespace(
            class_ids=np.maximum(np.array(ids), 0)[:, None], finite=np.array(ids) != NOT_FINITE
        )
        self.thumbnails.look(parts, pixels, predictions)
        pixels[:] = 255  # the next batch overwrites the pixels
        for run, classes in answers:
            run.settle({position: outcome(class_id) for position, class_id in classes.items()})

    def run(self, *class_ids: int) -> ChunkRun:
        """Run a chunk, from claim to store."""
        run = self.begin()
        self.classify((run, dict(zip(run.claim.images, class_ids, strict=True))))
        self.runs.store(run)
        return run


def outcome(class_id: int) -> Outcome:
    if class_id == NOT_FINITE:
        return Outcome(Failure("not_finite"), Provenance())
    return Outcome(Prediction((class_id,), (0.5,)), Provenance())


@pytest.fixture
def make_worker(engine: Engine, app: Celery) -> Iterator[Callable[..., Worker]]:
    made = []

    def make(**options: Any) -> Worker:
        made.append(Worker(engine, app, **options))
        made[-1].thumbnails.start()
        return made[-1]

    yield make
    for worker in made:
        worker.thumbnails.close()


@pytest.fixture
def job(engine: Engine, app: Celery, settings: Settings) -> int:
    """A job of two chunks of four images, which are queued in Redis."""
    job = submit_job(engine, 2)
    publish(engine, app, settings)
    return job


def kept(engine: Engine, worker: Worker) -> dict[int, int]:
    """The shade of each thumbnail by position, after the worker has written all of them."""
    worker.thumbnails.close()
    with reading(engine) as connection:
        rows = connection.execute(select(thumbnails)).all()
    return {row.position: shade_of(row.jpeg) for row in rows}


def shade_of(jpeg: bytes) -> int:
    return round(np.asarray(Image.open(io.BytesIO(jpeg))).mean() / 16)


def test_a_small_job_has_a_thumbnail_of_each_image(engine: Engine, job: int, make_worker) -> None:
    worker = make_worker()
    first, second = worker.begin(), worker.begin()
    images = [dict.fromkeys(run.claim.images, 3) for run in (first, second)]
    worker.classify((first, images[0]), (second, images[1]))
    worker.runs.store(first)
    worker.runs.store(second)
    assert kept(engine, worker) == {n: n for n in range(8)}
    with reading(engine) as connection:
        assert set(connection.scalars(select(thumbnails.c.class_id))) == {3}


def test_each_class_of_a_large_job_has_a_thumbnail(engine: Engine, job: int, make_worker) -> None:
    change_job(engine, job, total=HUGE)
    worker = make_worker()
    first = worker.run(1, 1, 2, 1)
    second = worker.run(2, 1, 3, 3)
    begin, then = first.claim.first_position, second.claim.first_position
    assert kept(engine, worker) == {place: place for place in (begin, begin + 2, then + 2)}


def test_a_class_in_the_sample_needs_no_other_thumbnail(
    engine: Engine, job: int, make_worker
) -> None:
    """The job's sample is one image."""
    change_job(engine, job, total=HUGE)
    worker = make_worker()
    run = worker.begin()
    begin = run.claim.first_position
    run.sampled = frozenset({begin + 3})
    worker.classify((run, dict(zip(run.claim.images, (1, 2, 2, 1), strict=True))))
    worker.runs.store(run)
    assert kept(engine, worker) == {place: place for place in (begin + 1, begin + 3)}


def test_classes_are_tracked_per_job(
    engine: Engine, app: Celery, settings: Settings, make_worker
) -> None:
    """This holds even if one batch has images of several jobs."""
    numbers = [submit_job(engine, 1), submit_chunks(engine, 1, images=4)]
    for number in numbers:
        change_job(engine, number, total=HUGE)
    publish(engine, app, settings)
    worker = make_worker()
    runs = [worker.begin() for _ in numbers]
    worker.classify(*((run, {0: 5, 1: 5}) for run in runs))
    worker.classify(*((run, {2: 5, 3: 6}) for run in runs))
    for run in runs:
        worker.runs.store(run)
    worker.thumbnails.close()
    with reading(engine) as connection:
        rows = connection.execute(select(thumbnails.c.job_number, thumbnails.c.position)).all()
    assert sorted(map(tuple, rows)) == [(number, place) for number in numbers for place in (0, 3)]


def test_a_forgotten_job_starts_again(
    engine: Engine, app: Celery, settings: Settings, make_worker, monkeypatch
) -> None:
    monkeypatch.setattr(module, "MOST_JOBS", 1)
    numbers = [submit_job(engine, 2), submit_chunks(engine, 1, images=4)]
    for number in numbers:
        change_job(engine, number, total=HUGE)
    publish(engine, app, settings)
    worker = make_worker()
    runs = sorted((worker.begin() for _ in range(3)), key=lambda run: str(run.claim.fence))
    for run in (runs[0], runs[2], runs[1]):
        worker.classify((run, dict.fromkeys(run.claim.images, 5)))
        worker.runs.store(run)
    worker.thumbnails.close()
    with reading(engine) as connection:
        rows = connection.execute(select(thumbnails.c.job_number, thumbnails.c.position)).all()
    first, second = numbers
    assert sorted(map(tuple, rows)) == [(first, 0), (first, 4), (second, 0)]


def test_several_workers_keep_two_thumbnails_of_a_class(
    engine: Engine, app, settings, make_worker
) -> None:
    job = submit_job(engine, 5)
    change_job(engine, job, total=HUGE)
    publish(engine, app, settings)
    for _ in range(5):
        worker = make_worker()
        worker.run(1, 1, 1, 1)
        worker.thumbnails.close()
    assert len(kept(engine, worker)) == 2


def test_a_run_that_lost_its_chunk_writes_no_thumbnail(
    engine: Engine, job: int, make_worker
) -> None:
    worker = make_worker()
    run = worker.begin()
    worker.classify((run, dict.fromkeys(run.claim.images, 1)))
    change_chunks(engine, job, run.claim.message.chunk, generation=9)
    assert worker.runs.store(run) is None
    assert kept(engine, worker) == {}


def test_a_class_seen_only_in_a_lost_run_counts_as_unseen(
    engine: Engine, job: int, make_worker
) -> None:
    change_job(engine, job, total=HUGE)
    worker = make_worker()
    run = worker.begin()
    worker.classify((run, dict.fromkeys(run.claim.images, 1)))
    change_chunks(engine, job, run.claim.message.chunk, generation=9)
    assert worker.runs.store(run) is None
    late = worker.begin()
    until(lambda: not worker.thumbnails._seen.any())
    worker.classify((run, dict.fromkeys(run.claim.images, 2)))  # its batch comes late
    worker.classify((late, dict(zip(late.claim.images, (1, 1, 2, 2), strict=True))))
    worker.runs.store(late)
    begin = late.claim.first_position
    assert sorted(kept(engine, worker)) == [begin, begin + 2]


@pytest.mark.parametrize("is_stored", [True, False])
def test_a_thumbnail_follows_its_row(engine: Engine, job: int, make_worker, is_stored) -> None:
    """Late images are stored later, or not at all by this worker."""
    worker = make_worker()
    run = worker.begin()
    early, *late = run.claim.images
    worker.classify((run, {early: 1}))
    worker.runs.store(run)
    worker.classify((run, dict.fromkeys(late, 1)))
    if is_stored:
        worker.runs.store(run)
    assert sorted(kept(engine, worker)) == ([early, *late] if is_stored else [early])


def test_a_picture_without_an_answer_has_a_thumbnail(engine: Engine, job: int, make_worker) -> None:
    worker = make_worker()
    run = worker.run(1, NOT_FINITE, 1, 1)
    assert len(kept(engine, worker)) == 4
    with reading(engine) as connection:
        (failed,) = find_thumbnails(connection, job_of(engine, job).id, only="failed")
    assert (failed.position, failed.error_code) == (run.claim.first_position + 1, "not_finite")


def test_a_retry_replaces_the_answer_of_a_thumbnail(
    engine: Engine, app: Celery, settings: Settings, job: int, make_worker
) -> None:
    worker = make_worker()
    worker.run(1, 1, 1, 1)
    run = worker.run(1, NOT_FINITE, 1, 1)
    position = run.claim.first_position + 1
    before = kept(engine, worker)
    dispatch(engine)
    retry(engine, job_of(engine, job).id)
    publish(engine, app, settings)
    worker = make_worker()
    again = worker.begin()
    assert set(again.claim.images) == {position}
    worker.classify((again, {position: 2}))
    worker.runs.store(again)
    assert kept(engine, worker) == before
    with reading(engine) as connection:
        found = find_thumbnails(connection, job_of(engine, job).id)
        assert [one.position for one in found] == list(range(8))
        rows = connection.execute(select(thumbnails.c.position, thumbnails.c.class_id)).all()
    assert dict(map(tuple, rows)) == dict.fromkeys(range(8), 1) | {position: 2}


def test_a_run_keeps_its_thumbnails_if_its_job_is_cancelled(
    engine: Engine, job: int, make_worker
) -> None:
    worker = make_worker()
    run = worker.begin()
    worker.classify((run, dict.fromkeys(run.claim.images, 1)))
    cancel(engine, job_of(engine, job).id)
    dispatch(engine)
    worker.runs.store(run)
    assert sorted(kept(engine, worker)) == sorted(run.claim.images)


def test_no_thumbnails_are_made_when_none_are_wanted(engine: Engine, job: int, make_worker) -> None:
    worker = make_worker(wanted=0)
    run = worker.run(1, 2, 3, 4)
    assert (run.sampled, run.has_thumbnails) == (frozenset(), False)
    assert kept(engine, worker) == {}


def test_if_too_many_wait_a_later_image_represents_its_class(
    engine: Engine, job: int, monkeypatch: pytest.MonkeyPatch, app: Celery
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 1)
    change_job(engine, job, total=HUGE)
    worker = Worker(engine, app)  # its thread does not run yet
    first, second = worker.begin(), worker.begin()
    worker.classify((first, dict(zip(first.claim.images, (1, 2, 2, 2), strict=True))))
    monkeypatch.setattr(module, "MOST_WAITING", 100)
    worker.classify((second, dict(zip(second.claim.images, (1, 2, 2, 2), strict=True))))
    worker.thumbnails.start()
    worker.runs.store(first)
    worker.runs.store(second)
    begin, then = first.claim.first_position, second.claim.first_position
    assert sorted(kept(engine, worker)) == sorted([begin, then + 1])


def test_a_thumbnail_that_sql_refuses_costs_no_other(
    engine: Engine, job: int, make_worker, caplog
) -> None:
    """SQL refuses a row when its job is being deleted at that moment."""
    worker = make_worker()
    run = worker.begin()
    *others, odd = run.claim.images

    @event.listens_for(engine, "before_cursor_execute")
    def refuse(_: Any, __: Any, statement: str, parameters: Any, ___: Any, ____: Any) -> None:
        given = parameters if isinstance(parameters, list) else [parameters]
        if "INSERT INTO thumbnails" in statement and any(odd in _values(one) for one in given):
            raise IntegrityError(statement, {}, Exception("planted"))

    worker.classify((run, dict.fromkeys(run.claim.images, 1)))
    worker.runs.store(run)
    assert sorted(kept(engine, worker)) == others
    assert "planted" in caplog.text


def _values(parameters: Any) -> list[Any]:
    return list(parameters.values() if isinstance(parameters, dict) else parameters)


def test_a_job_deleted_meanwhile_gets_no_thumbnails(engine: Engine, job: int, app: Celery) -> None:
    worker = Worker(engine, app)  # its thread does not run yet
    worker.run(1, 1, 1, 1)
    with engine.begin() as connection:
        connection.execute(delete(jobs).where(jobs.c.number == job))
    worker.thumbnails.start()
    assert kept(engine, worker) == {}


def test_a_thumbnail_that_cannot_be_made_costs_no_other(
    engine: Engine, job: int, make_worker, monkeypatch, caplog
) -> None:
    make = JpegMaker.make

    def fail_once(maker: JpegMaker, pixels: np.ndarray) -> bytes:
        monkeypatch.setattr(JpegMaker, "make", make)
        raise MemoryError("planted")

    monkeypatch.setattr(JpegMaker, "make", fail_once)
    worker = make_worker()
    run = worker.run(1, 1, 1, 1)
    assert sorted(kept(engine, worker)) == sorted(run.claim.images)[1:]
    assert "A thumbnail could not be made" in caplog.text
