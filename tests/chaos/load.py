"""Jobs without end, so that every fault comes while all processes are busy.

A thread submits another job whenever few images wait. If a submit fails because its database is
down or full, the thread repeats it with the same key until it succeeds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from types import TracebackType
from typing import Any, Final, Self
from uuid import uuid4

from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from contract.database.engine import reading
from contract.database.tables import chunks, jobs, tallies
from contract.errors import UnavailableError
from producer.submit.submission import submit
from tests.chaos.job import CHUNK_LENGTHS, Image, Job, name_images
from tests.chaos.stack import CHUNK_IMAGES, Stack
from tests.chaos.wait import WITHIN_S, until

JOB_IMAGES: Final = 20 * CHUNK_IMAGES
SHORT_JOB_IMAGES: Final = 8 * CHUNK_IMAGES
LOOK_S: Final = 0.2


class Load:
    """The jobs of one trial. Inside this context, at least two jobs' images wait."""

    def __init__(self, stack: Stack, random: Random, *, short: bool) -> None:
        self.jobs: list[Job] = []
        self._stack = stack
        self._random = random
        self.job_images = SHORT_JOB_IMAGES if short else JOB_IMAGES
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        until("a worker runs a chunk", self._is_under_way)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: object, __: TracebackType | None
    ) -> None:
        self._closed.set()
        if kind is None:  # otherwise the database may never come back
            self._thread.join()

    @property
    def images(self) -> int:
        return sum(len(job.images) for job in self.jobs)

    def submit(self, uris: Sequence[str], *, priority: int = 0) -> Job:
        """Submits one more job, besides those of the thread."""
        return self._submit(name_images(uris, self._random), priority=priority)

    def expect(self, job: Job, **changes: object) -> None:
        """Changes how the job is expected to end."""
        index = next(n for n, one in enumerate(self.jobs) if one.id == job.id)
        self.jobs[index] = replace(self.jobs[index], **changes)

    def finish(self, *, within_s: float = WITHIN_S) -> None:
        """Returns once every job has ended and its tallies are counted.

        Raises:
            WaitedInVainError: a job did not end in time.
        """
        until("every job has ended", self._is_finished, within_s=within_s)

    def _run(self) -> None:
        while not self._closed.is_set():
            if self._is_low():
                self._submit_at_last()
            self._closed.wait(LOOK_S)

    def _submit_at_last(self) -> None:
        """Submits a job with the same key until the database has it."""
        length = self.job_images - self._random.randrange(max(CHUNK_LENGTHS))
        images = name_images(self._stack.pictures.plain(length, self._random), self._random)
        key = f"load-{uuid4()}"
        while True:
            try:
                self._submit(images, key=key)
            except (DBAPIError, UnavailableError):
                time.sleep(LOOK_S)
            else:
                return

    def _submit(self, images: Sequence[Image], **options: Any) -> Job:
        """Submits a job in chunks of a length that depends on the job's own length."""
        settings = self._stack.settings.model_copy(
            update={"chunk_images": CHUNK_LENGTHS[len(images) % len(CHUNK_LENGTHS)]}
        )
        job = Job(
            id=submit(self._stack.engine, images, settings=settings, **options), images=images
        )
        self.jobs.append(job)
        return job

    def _is_low(self) -> bool:
        waiting = select(func.sum(chunks.c.remaining_images)).where(
            chunks.c.state.in_(("pending", "queued"))
        )
        try:
            with reading(self._stack.engine) as connection:
                return (connection.scalar(waiting) or 0) < 2 * self.job_images
        except DBAPIError:
            return False

    def _is_under_way(self) -> bool:
        running = select(func.count()).where(chunks.c.state == "running")
        with reading(self._stack.engine) as connection:
            return bool(connection.scalar(running))

    def _is_finished(self) -> bool:
        ours = jobs.c.id.in_([job.id for job in self.jobs])
        live = select(func.count()).where(ours, jobs.c.finished_at.is_(None))
        left = select(func.count()).select_from(tallies.join(jobs)).where(ours)
        with reading(self._stack.engine) as connection:
            return not connection.scalar(live) and not connection.scalar(left)
