"""Decides which of several dispatchers leads: the one whose name is in `leaders`.

A dispatcher asks once per tick. The leader renews a time in its row, by the database's clock. If
that time is old, another dispatcher puts its own name there. The row replaces a session's lock,
because a pooler such as PgBouncer passes a session on after each transaction. Two dispatchers that
both think they lead do no harm: every move of a chunk is safe with any number of dispatchers.

A dispatcher that stands by has its own row, whose role begins with `standby-`. It shows health
checks that the dispatcher is alive.
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
# Seconds until a dead leader is replaced. A shorter pause of its database or machine changes
# nothing.
TERM_S: Final = 5.0
# Least number of ticks in a term, for dispatchers with a long interval.
TICKS_A_TERM: Final = 4
RENEW_S: Final = 1.0
# Seconds after which people and health checks consider a dispatcher dead.
DEAD_AFTER_S: Final = 15.0
# Seconds after which the row of a killed standby is deleted.
FORGET_AFTER_S: Final = 3600.0


def dead_after_s(dispatch_interval_s: float) -> float:
    """DEAD_AFTER_S, or longer for a dispatcher with a long interval."""
    return max(DEAD_AFTER_S, TICKS_A_TERM * dispatch_interval_s)


class Leadership:
    """Owns the row of the leader, from `ask` to `leave`."""

    def __init__(self, term_s: float = TERM_S) -> None:
        self.name = name_process()
        self._standby_role = f"standby-{self.name[-8:]}"  # as long as the column allows
        self._term_s = term_s
        self._renewed_at: float | None = None
        self._stood_by_at: float | None = None
        self._followed: str | None = None

    def ask(self, engine: Engine) -> bool:
        """Whether this dispatcher leads. Logs every change of leader."""
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
        """Gives up the leadership. Another dispatcher leads from its next tick."""
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
        """Takes the row. False if another dispatcher was faster."""
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
        """Shows that this dispatcher is alive, at most every `RENEW_S`."""
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
        """Deletes this dispatcher's standby row, since it leads now, and those of dead ones."""
        is_over = or_(leaders.c.holder == self.name, leaders.c.held_at <= db_now(-FORGET_AFTER_S))
        connection.execute(delete(leaders).where(leaders.c.role != ROLE, is_over))

    def _tell(self, other: str | None, *, leads: bool) -> None:
        if leads and self._renewed_at is None:
            log.info("leading as %s", self.name)
        elif not leads and other != self._followed:
            log.info("standing by: %s leads", other or "another dispatcher")
        self._followed = other


def _dialect(connection: Connection) -> Any:  # noqa: ANN401  (a module)
    return postgresql if connection.dialect.name == "postgresql" else sqlite
