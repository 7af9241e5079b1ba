"""Finds chunks whose message is lost: Redis was flushed, or a worker died before it claimed the
chunk.

Redis hands out messages in the order in which they came. If a chunk is queued in SQL, and was
published before the oldest message that Redis held a few seconds ago, a worker took its message but
never claimed it. The chunk is published again. A wrong verdict is harmless, because every claim
refuses the old message's generation. This happens to messages that wait at a worker's gate while an
image runs alone, up to its deadlines. (Comparing counts instead would be wrong: messages move
between two looks.)
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from celery import Celery
from sqlalchemy import Engine, select

from contract.broker.connection import redis_of
from contract.broker.message import PUBLISHED_AT_HEADER
from contract.chunks.dispatch import take_back_unclaimed
from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import jobs

log = logging.getLogger(__name__)

# A worker needs only milliseconds between taking a message and claiming its chunk, unless an image
# runs alone in it. Then its chunks go out again, also to other workers.
GRACE_S: Final = 5.0


@dataclass(frozen=True)
class Look:
    """A look at a queue in Redis: all messages published before `oldest` had been taken."""

    looked_at: float
    oldest: datetime


@dataclass
class Lost:
    """Remembers its looks at each queue for as long as the grace lasts."""

    grace_s: float = GRACE_S
    _looks: dict[str, deque[Look]] = field(default_factory=dict)

    def put_back(self, engine: Engine, app: Celery) -> int:
        """Makes chunks with lost messages pending again. Returns their number."""
        with reading(engine) as connection:
            queues = connection.scalars(
                select(jobs.c.queue).where(jobs.c.state == "running").distinct()
            ).all()
        found = 0
        for queue in queues:
            self._look(engine, app, queue)
            before = self._seen_before_grace(queue)
            if before is not None:
                found += _take_back(engine, queue, before)
        return found

    def _look(self, engine: Engine, app: Celery, queue: str) -> None:
        with reading(engine) as connection:
            now = connection.scalar(select(db_now()))
        assert now is not None  # noqa: S101  (a clock always answers)
        # The time is read first, so that later messages do not affect this look.
        message = redis_of(app).lindex(queue, -1)
        oldest = now if message is None else _published_at(message)
        if oldest is not None:
            looks = self._looks.setdefault(queue, deque())
            looks.append(Look(time.monotonic(), min(oldest, now)))

    def _seen_before_grace(self, queue: str) -> datetime | None:
        """The result of the youngest look that is old enough."""
        looks = self._looks.get(queue, deque())
        seen = None
        while looks and looks[0].looked_at <= time.monotonic() - self.grace_s:
            seen = looks.popleft().oldest
        return seen


def _published_at(message: bytes) -> datetime | None:
    """When the message was published. None: it is not ours and tells nothing."""
    try:
        headers: dict[str, Any] = json.loads(message)["headers"]
        published_at = datetime.fromisoformat(headers[PUBLISHED_AT_HEADER])
    except (ValueError, KeyError, TypeError):
        return None
    return published_at if published_at.tzinfo is not None else None


def _take_back(engine: Engine, queue: str, before: datetime) -> int:
    with engine.begin() as connection:
        lost = take_back_unclaimed(connection, queue, before)
    if lost:
        log.warning(
            "%d messages of queue %s are lost, or wait in a worker. Publishing their chunks "
            "again; no image is lost or counted twice",
            *(lost, queue),
        )
    return lost
