"""`results --follow`: images as they finish, until the job is finished.

Each chunk records its remaining images. An image that remained at one look and not at the next has
its row by then, since one transaction writes both. No clocks are compared, so no image is missed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection, Engine, select

from contract import remaining
from contract.database.tables import chunks
from contract.database.waits import Database
from producer.jobs.export.rows import Row
from producer.jobs.export.window import POSITIONS, Windows
from producer.jobs.job import Job, read_job

POLL_S: Final = 1.0
# The largest share of time that reading all chunks of a large job may take.
_LOOK_SHARE: Final = 0.1


class Follower:
    """Yields the rows of images that have finished since the last look."""

    def __init__(self, engine: Engine, job: Job, windows: Windows, start: int) -> None:
        self._database = Database(engine)
        self._job_number = job.number
        self._windows = windows
        self._start = start
        self._left: dict[int, set[int]] = {}
        """Positions that remained at the last look, by chunk."""

    def rows(self) -> Iterator[list[Row]]:
        """Some rows at once. Yields an empty list before each wait."""
        while True:
            began = time.monotonic()
            # Read before the chunks: a job that is finished now has no remaining images in them.
            finished = self._database.read(self._is_finished)
            for new in self._new():
                yield self._rows_of(new)
            if finished:
                return
            yield []
            time.sleep(max(POLL_S, (time.monotonic() - began) / _LOOK_SHARE))

    def _is_finished(self, connection: Connection) -> bool:
        return read_job(connection, self._job_number).is_finished

    def _rows_of(self, positions: list[int]) -> list[Row]:
        wanted = set(positions)
        rows = self._windows.read(positions[0], positions[-1] + 1)
        return [row for row in rows if row[0] in wanted]

    def _new(self) -> Iterator[list[int]]:
        """Newly finished positions in order, some thousands at once."""
        some: list[int] = []
        for chunk, first, images, left in self._database.read(self._look):
            now = {first + offset for offset in remaining.decode(left)}
            before = self._left.get(chunk)
            self._left[chunk] = now
            new = (set(range(first, first + images)) if before is None else before) - now
            found = sorted(position for position in new if position >= self._start)
            if some and found and found[-1] - some[0] >= POSITIONS:
                yield some
                some = []
            some += found
        if some:
            yield some

    def _look(self, connection: Connection) -> list[tuple[int, int, int, bytes]]:
        statement = (
            select(chunks.c.chunk, chunks.c.first_position, chunks.c.images, chunks.c.remaining)
            .where(chunks.c.job_number == self._job_number)
            .order_by(chunks.c.chunk)
        )
        return [tuple(row) for row in connection.execute(statement)]
