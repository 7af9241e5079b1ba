"""Ends jobs that were cancelled or have expired: every remaining image gets its row.

The dispatcher calls `expire`, `stop_failing` and `settle` once per tick. No worker claims a chunk
of such a job any more, so `pending` and `queued` chunks are ended here. A worker keeps the chunks
that it runs until it has stored them, or until it is dead and they are taken back. Rows, tally and
the chunk's new state go into one transaction, as with workers. When all images have their rows,
`producer.dispatcher.count` finishes the job.
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

# States of ended jobs, which are also the error codes of their remaining images.
ENDED: Final = ("cancelled", "expired")
# Some thousands of rows: others wait for tens of milliseconds.
CHUNKS_A_TRANSACTION: Final = 64
LEAST_SETTLED: Final = 100
"""Finished images that a job needs before it can be stopped for too many failures."""

log = logging.getLogger(__name__)


def expire(engine: Engine) -> list[str]:
    """Ends the running jobs whose time limit has passed. Returns their ids."""
    over = (
        select(jobs.c.number)
        .where(jobs.c.state == "running", jobs.c.expires_at <= db_now())
        .with_for_update(key_share=True, skip_locked=True)
        .cte("over")  # evaluated only once, whatever the plan
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
    """Cancels the running jobs with too large a share of failed images. Returns their ids.

    A job needs LEAST_SETTLED finished images: the first few may all come from one bad host.
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
        .cte("failing")  # evaluated only once, whatever the plan
    )
    with engine.begin() as connection:
        stopped = connection.execute(
            update(jobs)
            .where(jobs.c.number.in_(select(failing)))
            .values(state="cancelled", images_per_s=0.0)
            .returning(jobs.c.id, jobs.c.failed, settled.label("settled"))
        ).all()
    for job in stopped:
        log.warning(
            "Stopping job %s: %d of %d images failed.",
            job.id,
            job.failed,
            job.settled,
            extra={"job": job.id},
        )
    return [job.id for job in stopped]


def settle(engine: Engine, for_s: float) -> int:
    """Ends remaining chunks of ended jobs, for about `for_s` seconds. Returns their number.

    Jobs take turns, so that a small one does not wait for a large one.
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
    """Ends some chunks. Returns 0 if only workers have chunks, or another dispatcher has the
    lock.
    """
    state = connection.scalar(
        select(jobs.c.state)
        .where(jobs.c.number == number, jobs.c.state.in_(ENDED))
        # Locked until the end, so that no retry sets the job running meanwhile.
        .with_for_update(key_share=True, skip_locked=True)
    )
    if state is None:
        return 0
    return end_chunks(connection, number, state, most=CHUNKS_A_TRANSACTION)
