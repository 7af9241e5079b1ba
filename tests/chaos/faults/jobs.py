"""Users cancel, retry and hurry jobs while workers, dispatchers and servers are killed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Final

from sqlalchemy import func, select, update

from contract.database.engine import reading
from contract.database.tables import jobs, results
from producer.jobs.cancel import cancel
from producer.jobs.retry import retry
from tests.chaos.job import Job
from tests.chaos.stack import CHUNK_IMAGES, Stack
from tests.chaos.trial import Trial
from tests.chaos.wait import until

CANCELLED_JOBS: Final = 5


def change(trial: Trial) -> None:
    stack = trial.stack
    changes = cycle((_cancel, _retry, _hurry))
    harms = cycle(_harms(stack))
    with trial.load:
        for _ in trial.rounds():
            next(changes)(trial, next(harms))
            stack.heal()


Harm = Callable[[Stack], None]


def _harms(stack: Stack) -> list[Harm]:
    common = [_kill_worker, _flush_redis, _kill_dispatcher, _kill_loader, _kill_redis]
    return [*common, *([_kill_postgres] if stack.postgres else [])]


def _cancel(trial: Trial, harm: Harm) -> None:
    """Cancels a job that is too large to finish first."""
    uris = trial.stack.pictures.plain(CANCELLED_JOBS * trial.load.job_images, trial.random)
    job = trial.load.submit(uris)
    until("one of its images is stored", lambda: _rows(trial.stack, job))
    harm(trial.stack)
    until("the job is cancelled", lambda: cancel(trial.stack.engine, job.id))
    trial.load.expect(job, state="cancelled", also=frozenset({"cancelled"}))


def _retry(trial: Trial, harm: Harm) -> None:
    """Retries images whose files were missing and now exist."""
    pictures = trial.stack.pictures
    absent = pictures.absent(2 * CHUNK_IMAGES, trial.random)
    job = trial.load.submit([*absent, *pictures.plain(CHUNK_IMAGES, trial.random)])
    until("all of its images are stored", lambda: _rows(trial.stack, job) == len(job.images))
    pictures.bring(absent)
    harm(trial.stack)
    until("all failed images are retried", lambda: not retry(trial.stack.engine, job.id).left)


def _hurry(trial: Trial, harm: Harm) -> None:
    job = trial.load.submit(
        trial.stack.pictures.plain(trial.load.job_images, trial.random), priority=-10
    )
    harm(trial.stack)
    until("its priority is changed", lambda: _set_priority(trial.stack, job))


def _rows(stack: Stack, job: Job) -> int:
    statement = select(func.count()).select_from(results.join(jobs)).where(jobs.c.id == job.id)
    with reading(stack.engine) as connection:
        return connection.scalar(statement) or 0


def _set_priority(stack: Stack, job: Job) -> bool:
    with stack.engine.begin() as connection:
        statement = update(jobs).where(jobs.c.id == job.id).values(priority=3)
        return bool(connection.execute(statement).rowcount)


def _kill_worker(stack: Stack) -> None:
    stack.workers[0].end()


def _kill_loader(stack: Stack) -> None:
    stack.kill_loader(stack.workers[-1])


def _kill_dispatcher(stack: Stack) -> None:
    stack.dispatchers[0].end()


def _flush_redis(stack: Stack) -> None:
    with stack.valkey.client() as client:
        client.flushall()


def _kill_redis(stack: Stack) -> None:
    stack.valkey.kill()
    stack.valkey.start()


def _kill_postgres(stack: Stack) -> None:
    assert stack.postgres is not None
    stack.postgres.kill()
    stack.postgres.start()
