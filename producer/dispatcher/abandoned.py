"""Jobs whose `submit` was killed: nobody would ever finish or delete them.

The dispatcher calls `remove_abandoned` once a tick. A submit is dead if it has had no heartbeat
for an hour. Its draft is deleted in short transactions; see `producer.submit.draft`.
"""

from __future__ import annotations

import logging
import time

from sqlalchemy import Engine, select

from contract.database.engine import reading
from contract.database.tables import jobs
from producer.submit.draft import abandon_dead, remove_some

log = logging.getLogger(__name__)


def remove_abandoned(engine: Engine, for_s: float) -> int:
    """Works for about so many seconds; returns how many drafts have been given up."""
    until = time.monotonic() + for_s
    with reading(engine) as connection:
        unfinished = jobs.c.state.in_(("submitting", "abandoned"))
        states = dict(
            connection.execute(select(jobs.c.number, jobs.c.state).where(unfinished)).all()
        )
    given_up = []
    if "submitting" in states.values():
        with engine.begin() as connection:
            given_up = abandon_dead(connection)
    if given_up:
        log.warning(
            "Removing %d unfinished jobs: their `submit` had no heartbeat for an hour",
            len(given_up),
        )
    abandoned = [number for number, state in states.items() if state == "abandoned"]
    for number in given_up + abandoned:
        while time.monotonic() < until:
            with engine.begin() as connection:
                if not remove_some(connection, number):
                    break
    return len(given_up)
