"""Jobs without end, so that every fault comes while all are at work.

A thread submits another job whenever little waits. A submit that fails, because its database
is away or full, is repeated with the same key until it has succeeded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from types import TracebackType
from typing import Final, Self

from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from contract.database.engine import reading
from contract.database.tables import chunks, jobs, tallies
from contract.errors import UnavailableError
from producer.submit.submission import submit
from tests.chaos.stack import CHUNK_IMAGES, Stack
from tests.chaos.wait import WITHIN_S, until

JOB_IMAGES: Final = 20 * CHUNK_IMAGES
SHORT_JOB_IMAGES: Final = 8 * CHUNK_IMAGES
LOOK_S: Final = 0.2


@dataclass(frozen=True, kw_only=True)
class Job:
    """What was submitted, and how it may end."""

    id: str
    uris: Sequence[str]
    state: str = "completed"
    also: frozenset[str] = frozenset()
    """Error codes that an image may have instead of its answer."""


class Load:
    """The jobs of one trial. A context: while it is open there are always two jobs' chunks that
    wait.
    """

    def __init__(self, stack: Stack, random: Random, *, short: bool) -> None:
        self.jobs: list[Job] = []
        self._stack = stack
        self._random = random
        self.job_images = SHORT_JOB_IMAGES if short else JOB_IMAGES
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        until("jobs are under way", self._is_under_way)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: object, __: TracebackType | None
    ) -> None:
        self._closed.set()
        if kind is None:  # else its database may be away for good
            self._thread.join()

    @property
    def images(self) -> int:
        return sum(len(job.uris) for job in self.jobs)

    def submit(self, uris: Sequence[str], *, priority: int = 0) -> Job:
        """A job of its own, besides those that come by themselves."""
        images = ((uri, None) for uri in uris)
        settings = self._stack.settings
        number = submit(self._stack.engine, images, priority=priority, settings=settings)
        job = Job(id=number, uris=uris)
        self.jobs.append(job)
        return job

    def expect(self, job: Job, **changes: object) -> None:
        """It is to end otherwise than it was to."""
        index = next(n for n, one in enumerate(self.jobs) if one.id == job.id)
        self.jobs[index] = replace(self.jobs[index], **changes)

    def finish(self, *, within_s: float = WITHIN_S) -> None:
        """Returns once every job has ended, and its counts are folded.

        Raises:
            WaitedInVainError: one has not.
        """
        until("every job has ended", self._is_finished, within_s=within_s)

    def _run(self) -> None:
        number = 0
        while not self._closed.is_set():
            if self._is_low():
                number += 1
                self._submit_at_last(f"load-{number}-{self._random.getrandbits(64):x}")
            self._closed.wait(LOOK_S)

    def _submit_at_last(self, key: str) -> None:
        uris = self._stack.pictures.plain(self.job_images, self._random)
        while True:
            try:
                images = ((uri, None) for uri in uris)
                number = submit(self._stack.engine, images, key=key, settings=self._stack.settings)
            except (DBAPIError, UnavailableError):
                time.sleep(LOOK_S)
            else:
                self.jobs.append(Job(id=number, uris=uris))
                return

    def _is_low(self) -> bool:
        waiting = select(func.count()).where(chunks.c.state.in_(("pending", "queued")))
        fewest = 2 * self.job_images // CHUNK_IMAGES
        try:
            with reading(self._stack.engine) as connection:
                return (connection.scalar(waiting) or 0) < fewest
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
