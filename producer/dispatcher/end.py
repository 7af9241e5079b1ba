"""The rest of a job that was cancelled or has expired: every image that is left gets its row.

The dispatcher calls `expire`, `stop_failing` and `settle` once a tick. No chunk of such a job is
claimed any more, so what is `pending` or `queued` is settled here; what a worker runs is its own
until it has stored it, or until it is dead and its chunk is taken back. Rows, tally and the chunk's
new state go into one transaction, as a worker's do. `producer.dispatcher.count` finishes the job
with the last.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, Engine, select, update

from contract.chunks.end import end as end_chunks
from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import jobs

# A job's state, and the error code of what is left of it.
ENDED: Final = ("cancelled", "expired")
# Some thousands of rows: others wait for tens of milliseconds.
CHUNKS_A_TRANSACTION: Final = 64
LEAST_SETTLED: Final = 100
"""Images, before a job is stopped because too many have failed."""

log = logging.getLogger(__name__)


def expire(engine: Engine) -> list[str]:
    """Ends the running jobs whose time is over; returns their ids."""
    over = (
        select(jobs.c.number)
        .where(jobs.c.state == "running", jobs.c.expires_at <= db_now())
        .with_for_update(key_share=True, skip_locked=True)
        .cte("over")  # evaluated once, whatever the plan
    )
    with engine.begin() as connection:
        ended = connection.scalars(
            update(jobs)
            .where(jobs.c.number.in_(select(over)))
            .values(state="expired", images_per_s=0.0)
            .returning(jobs.c.id)
        )
        return list(ended)


def stop_failing(engine: Engine) -> list[str]:
    """Cancels the running jobs of which too large a share has failed; returns their ids.

    Not before LEAST_SETTLED images are settled, or all: the first few may be one bad host's.
    """
    settled = jobs.c.classified + jobs.c.failed
    failing = (
        select(jobs.c.number)
        .where(
            jobs.c.state == "running",
            jobs.c.stop_at_failures.is_not(None),
            settled >= LEAST_SETTLED,
            jobs.c.failed >= jobs.c.stop_at_failures * settled,
        )
        .with_for_update(key_share=True, skip_locked=True)
        .cte("failing")  # evaluated once, whatever the plan
    )
    with engine.begin() as connection:
        stopped = connection.execute(
            update(jobs)
            .where(jobs.c.number.in_(select(failing)))
            .values(state="cancelled", images_per_s=0.0)
            .returning(jobs.c.id, jobs.c.failed, settled.label("settled"))
        ).all()
    for job in stopped:
        log.warning("Job %s is stopped: %d of %d images failed.", job.id, job.failed, job.settled)
    return [job.id for job in stopped]


def settle(engine: Engine, for_s: float) -> int:
    """Settles what is left of ended jobs, for about so many seconds; returns the chunks.

    Job by job in turns, so that a small one does not wait for a large one.
    """
    until = time.monotonic() + for_s
    unfinished = deque(_unfinished(engine))
    settled = 0
    while unfinished:
        number = unfinished.popleft()
        with engine.begin() as connection:
            some = _settle_some(connection, number)
        settled += some
        if some:
            unfinished.append(number)
        if time.monotonic() >= until:
            break
    return settled


def _unfinished(engine: Engine) -> Sequence[int]:
    statement = select(jobs.c.number).where(jobs.c.state.in_(ENDED), jobs.c.finished_at.is_(None))
    with reading(engine) as connection:
        return connection.scalars(statement.order_by(jobs.c.number)).all()


def _settle_some(connection: Connection, number: int) -> int:
    """How many chunks; 0 where none is left that nobody runs, or another dispatcher is at it."""
    state = connection.scalar(
        select(jobs.c.state)
        .where(jobs.c.number == number, jobs.c.state.in_(ENDED))
        # Held until the end, so that no retry sets the job running meanwhile.
        .with_for_update(key_share=True, skip_locked=True)
    )
    if state is None:
        return 0
    return end_chunks(connection, number, state, most=CHUNKS_A_TRANSACTION)
