"""Reads jobs for all clients that wait for them: one statement per second, however many wait.

`GET /v1/jobs/{id}?wait_s=` and `/events` use it. While clients wait for a job, it is read once per
second together with all other such jobs, turned into JSON once, and passed to every client.
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
    """A job at one moment."""

    content: bytes
    """Its JSON. Empty: the job has been deleted."""
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
    """The states of a job that one reader has seen."""

    def __init__(self, watched: _Watched) -> None:
        self._watched = watched
        self._last: Look | None = None

    async def next(self) -> Look:
        """The job's current state if it is new to this reader, otherwise the next state. Cancelled
        while it waits, it counts nothing as seen.
        """
        while self._watched.look is None or self._watched.look is self._last:
            await self._watched.changed.wait()
        self._last = self._watched.look
        return self._last


class Watch:
    """Owns one task of the event loop, and must be used only in that loop."""

    def __init__(self, engine: Engine, lease_s: float) -> None:
        self._engine = engine
        self._lease_s = lease_s
        self._watched: dict[int, _Watched] = {}
        self._somebody = asyncio.Event()

    async def run(self) -> None:
        """Reads jobs until it is cancelled."""
        while True:
            await self._somebody.wait()
            asked = list(self._watched)
            try:
                looks = await run_in_threadpool(self._read, asked)
            except DBAPIError as error:  # the database is unavailable; clients keep waiting
                log.warning("Cannot read jobs: %s", str(error.orig).partition("\n")[0])
            else:
                self._tell(asked, looks)
            await asyncio.sleep(LOOK_EVERY_S)

    @asynccontextmanager
    async def looking_at(self, number: int) -> AsyncIterator[Looks]:
        """Watches a job for the length of the block."""
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

    def _tell(self, asked: Collection[int], looks: dict[int, Look]) -> None:
        deleted = Look(b"", is_finished=True)
        for number in asked:
            watched, look = self._watched.get(number), looks.get(number, deleted)
            if watched is not None and look != watched.look:
                watched.look = look
                watched.changed.set()
                watched.changed = asyncio.Event()
