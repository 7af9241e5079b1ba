"""`resnextq db upgrade`: brings a database from any earlier schema to the newest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, text

from contract.database.engine import LOCK_TIMEOUT_OPTION

# An arbitrary number that no other program on the server locks.
ADVISORY_LOCK = 7_263_981_150_442_771
# A migration that cannot get its lock gives up before the queue behind it stops the workers.
LOCK_TIMEOUT_S = 5.0
# How often to check whether another migration has ended.
POLL_S = 0.1


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Runs the missing migrations, each in a transaction. Two upgrades do not run at once.

    No migration locks two tables that workers or dispatchers write in one transaction: if they lock
    the tables in another order, PostgreSQL ends one of the two transactions as a deadlock.

    `revision` is a schema's number in four digits, or "head".
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    with _alone(engine), engine.connect() as connection:
        options = {LOCK_TIMEOUT_OPTION: LOCK_TIMEOUT_S}
        config.attributes["connection"] = connection.execution_options(**options)
        command.upgrade(config, revision)


@contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    """Makes other upgrades wait, on PostgreSQL. On SQLite its own lock does that.

    The lock belongs to a transaction on a separate connection, which stays open meanwhile. A
    session's lock would stay with a pooler's connection to the server for ever.
    """
    if engine.dialect.name != "postgresql":
        yield
        return
    lock = text("SELECT pg_try_advisory_xact_lock(:key)")
    with engine.connect() as holder:
        while not holder.scalar(lock, {"key": ADVISORY_LOCK}):  # another upgrade may take long
            holder.rollback()  # the other upgrade may need this connection of a pooler
            time.sleep(POLL_S)
        holder.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        yield
