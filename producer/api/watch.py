"""Looks at jobs for all who wait for them: one statement a second, however many wait.

`GET /v1/jobs/{id}?wait_s=` and `/events` ask here. As long as somebody waits for a job it is read
once a second with all others that are waited for, turned into JSON once, and handed to everybody.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import orjson
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from contract.database.engine import reading
from producer.jobs.job import as_json, live_workers, read_jobs

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0


def etag_of(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


@dataclass(frozen=True)
class Look:
    """A job at some moment."""

    content: bytes
    """Its JSON; empty: the job has been deleted."""
    is_finished: bool

    @property
    def etag(self) -> str:
        return etag_of(self.content)


@dataclass
class _Watched:
    waiting: int = 0
    look: Look | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Looks:
    """What one reader has seen of a job."""

    def __init__(self, watched: _Watched) -> None:
        self._watched = watched
        self._last: Look | None = None

    async def next(self) -> Look:
        """The job as it is, if that is new to this reader; else as it is once it has changed.
        Broken off while it waits, it has seen nothing.
        """
        while self._watched.look is None or self._watched.look is self._last:
            await self._watched.changed.wait()
        self._last = self._watched.look
        return self._last


class Watch:
    """Owns one task of the event loop. To be used in that loop alone."""

    def __init__(self, engine: Engine, lease_s: float) -> None:
        self._engine = engine
        self._lease_s = lease_s
        self._watched: dict[int, _Watched] = {}
        self._somebody = asyncio.Event()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._somebody.wait()
            try:
                looks = await run_in_threadpool(self._read, list(self._watched))
            except DBAPIError as error:  # away: whoever waits goes on waiting
                log.warning("Jobs cannot be read: %s", str(error.orig).partition("\n")[0])
            else:
                self._tell(looks)
            await asyncio.sleep(LOOK_EVERY_S)

    @asynccontextmanager
    async def looking_at(self, number: int) -> AsyncIterator[Looks]:
        """Looks at a job as long as the block lasts."""
        watched = self._watched.setdefault(number, _Watched())
        watched.waiting += 1
        self._somebody.set()
        try:
            yield Looks(watched)
        finally:
            watched.waiting -= 1
            if not watched.waiting:
                del self._watched[number]
            if not self._watched:
                self._somebody.clear()

    def _read(self, numbers: Collection[int]) -> dict[int, Look]:
        with reading(self._engine) as connection:
            jobs = read_jobs(connection, numbers)
            served = live_workers(connection, self._lease_s)
        return {
            job.number: Look(orjson.dumps(as_json(job, served)), job.is_finished) for job in jobs
        }

    def _tell(self, looks: dict[int, Look]) -> None:
        for number, watched in self._watched.items():
            look = looks.get(number)
            if look is None and watched.look is not None:
                look = Look(b"", is_finished=True)
            if look is not None and look != watched.look:
                watched.look = look
                watched.changed.set()
                watched.changed = asyncio.Event()
