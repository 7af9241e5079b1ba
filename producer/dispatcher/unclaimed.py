"""Chunks whose message is gone: Redis was flushed, or a worker died with the message in hand.

Redis hands out messages in the order they came. So a chunk that is queued in SQL, and was
published before the oldest message that Redis held a few seconds ago, has been taken and
never claimed; it is published again. A wrong verdict is harmless: the old message's
generation is refused by every claim. So it is for messages that wait at a worker's gate while
an image runs alone, up to its deadlines. (Comparing counts instead is not sound: between the two
looks messages move.)
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

# Between taking a message and claiming its chunk a worker needs milliseconds, unless an image runs
# alone in it: then its chunks go out again, to others as well.
GRACE_S: Final = 5.0


@dataclass(frozen=True)
class Look:
    """What Redis held of a queue: everything published before `oldest` had been taken."""

    looked_at: float
    oldest: datetime


@dataclass
class Lost:
    """Remembers what it has seen of each queue for as long as the grace lasts."""

    grace_s: float = GRACE_S
    _looks: dict[str, deque[Look]] = field(default_factory=dict)

    def put_back(self, engine: Engine, app: Celery) -> int:
        """Makes lost chunks pending again; returns how many there were."""
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
        # The time is taken first: what is published after it is none of this look's business.
        message = redis_of(app).lindex(queue, -1)
        oldest = now if message is None else _published_at(message)
        if oldest is not None:
            looks = self._looks.setdefault(queue, deque())
            looks.append(Look(time.monotonic(), min(oldest, now)))

    def _seen_before_grace(self, queue: str) -> datetime | None:
        """The youngest look that is old enough."""
        looks = self._looks.get(queue, deque())
        seen = None
        while looks and looks[0].looked_at <= time.monotonic() - self.grace_s:
            seen = looks.popleft().oldest
        return seen


def _published_at(message: bytes) -> datetime | None:
    """None where the message is none of ours: then nothing can be said."""
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
            "%d messages of queue %s are gone, or a worker has them and waits: their chunks go out "
            "again, and none is lost or done twice",
            *(lost, queue),
        )
    return lost
