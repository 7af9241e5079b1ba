"""Which of several dispatchers is at work: the one whose name stands in `leaders`.

The dispatcher asks once a tick. The leader renews a time in its row, by the database's clock,
and whoever finds that time old puts its own name there. It is a row and no lock of a session,
since a pooler like PgBouncer gives a session to others after each transaction. Two that think
that they lead do no harm: each move of a chunk is safe with any number of dispatchers.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from typing import Final

from sqlalchemy import Connection, Engine, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import leaders

log = logging.getLogger(__name__)

ROLE: Final = "dispatcher"
# A leader that has died is replaced after so long; a pause of its database or its machine that
# is shorter changes nothing.
TERM_S: Final = 5.0
# Of one that looks seldom the term is longer.
TICKS_A_TERM: Final = 4
RENEW_S: Final = 1.0


class Leadership:
    """Owns the row while it leads, from `ask` to `leave`."""

    def __init__(self, term_s: float = TERM_S) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._term_s = term_s
        self._renewed_at: float | None = None
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
        return leads

    def leave(self, engine: Engine) -> None:
        """Another one leads with its next tick."""
        self._renewed_at = None
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
        if taken.rowcount:
            return True
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        made = connection.execute(
            dialect.insert(leaders)
            .values(role=ROLE, holder=self.name, held_at=db_now())
            .on_conflict_do_nothing()
        )
        return made.rowcount == 1

    def _tell(self, other: str | None, *, leads: bool) -> None:
        if leads and self._renewed_at is None:
            log.info("leads as %s", self.name)
        elif not leads and other != self._followed:
            log.info("stands by: %s leads", other or "another one")
        self._followed = other
