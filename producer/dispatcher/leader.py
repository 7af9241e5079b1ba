"""Which of several dispatchers is at work: the one whose name stands in `leaders`.

The dispatcher asks once a tick. The leader renews a time in its row, by the database's clock,
and whoever finds that time old puts its own name there. It is a row and no lock of a session,
since a pooler like PgBouncer gives a session to others after each transaction. Two that think
that they lead do no harm: each move of a chunk is safe with any number of dispatchers.

One that stands by has a row of its own, whose role begins with `standby-`, so that a health check
sees that it lives.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import leaders
from contract.process_name import name_process

log = logging.getLogger(__name__)

ROLE: Final = "dispatcher"
# A leader that has died is replaced after so long; a pause of its database or its machine that
# is shorter changes nothing.
TERM_S: Final = 5.0
# Of one that looks seldom the term is longer.
TICKS_A_TERM: Final = 4
RENEW_S: Final = 1.0
# A dispatcher that has not been seen for so long is dead, for people and for health checks.
DEAD_AFTER_S: Final = 15.0
# The row of one that stood by, and was killed.
FORGET_AFTER_S: Final = 3600.0


def dead_after_s(dispatch_interval_s: float) -> float:
    """The same of a dispatcher that looks so often."""
    return max(DEAD_AFTER_S, TICKS_A_TERM * dispatch_interval_s)


class Leadership:
    """Owns the row while it leads, from `ask` to `leave`."""

    def __init__(self, term_s: float = TERM_S) -> None:
        self.name = name_process()
        self._standby_role = f"standby-{self.name[-8:]}"  # as long as the column permits
        self._term_s = term_s
        self._renewed_at: float | None = None
        self._stood_by_at: float | None = None
        self._followed: str | None = None

    def ask(self, engine: Engine) -> bool:
        """Whether this one leads; what it takes over or leaves to another one is logged."""
        now = time.monotonic()
        if self._renewed_at is not None and now - self._renewed_at < RENEW_S:
            return True
        with reading(engine) as connection:
            other = self._living_other(connection)
        if other is None:
            with engine.begin() as connection:
                other = None if self._take(connection) else self._living_other(connection)
        leads = other is None
        self._tell(other, leads=leads)
        self._renewed_at = now if leads else None
        if leads:
            self._stood_by_at = None
        else:
            self._stand_by(engine, now)
        return leads

    def leave(self, engine: Engine) -> None:
        """Another one leads with its next tick."""
        self._renewed_at = self._stood_by_at = None
        with engine.begin() as connection:
            connection.execute(delete(leaders).where(leaders.c.holder == self.name))

    def _living_other(self, connection: Connection) -> str | None:
        return connection.scalar(
            select(leaders.c.holder).where(
                leaders.c.role == ROLE,
                leaders.c.holder != self.name,
                leaders.c.held_at > db_now(-self._term_s),
            )
        )

    def _take(self, connection: Connection) -> bool:
        """False where another one was quicker."""
        is_free = or_(leaders.c.holder == self.name, leaders.c.held_at <= db_now(-self._term_s))
        taken = connection.execute(
            update(leaders)
            .where(leaders.c.role == ROLE, is_free)
            .values(holder=self.name, held_at=db_now())
        )
        if not taken.rowcount:
            made = connection.scalar(
                _dialect(connection)
                .insert(leaders)
                .values(role=ROLE, holder=self.name, held_at=db_now())
                .on_conflict_do_nothing()
                .returning(leaders.c.role)
            )
            if made is None:
                return False
        if self._renewed_at is None:
            self._clear_standbys(connection)
        return True

    def _stand_by(self, engine: Engine, now: float) -> None:
        """Says that this one lives, at most every `RENEW_S`."""
        if self._stood_by_at is not None and now - self._stood_by_at < RENEW_S:
            return
        with engine.begin() as connection:
            connection.execute(
                _dialect(connection)
                .insert(leaders)
                .values(role=self._standby_role, holder=self.name, held_at=db_now())
                .on_conflict_do_update(
                    index_elements=[leaders.c.role],
                    set_={"holder": self.name, "held_at": db_now()},
                )
            )
        self._stood_by_at = now

    def _clear_standbys(self, connection: Connection) -> None:
        """Deletes the row of this one, which leads now, and of those that are long dead."""
        is_over = or_(leaders.c.holder == self.name, leaders.c.held_at <= db_now(-FORGET_AFTER_S))
        connection.execute(delete(leaders).where(leaders.c.role != ROLE, is_over))

    def _tell(self, other: str | None, *, leads: bool) -> None:
        if leads and self._renewed_at is None:
            log.info("leads as %s", self.name)
        elif not leads and other != self._followed:
            log.info("stands by: %s leads", other or "another one")
        self._followed = other


def _dialect(connection: Connection) -> Any:  # noqa: ANN401  (a module)
    return postgresql if connection.dialect.name == "postgresql" else sqlite
