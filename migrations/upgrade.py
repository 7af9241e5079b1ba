"""`resnextq db upgrade`: brings a database from any earlier schema to the newest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, text

from contract.database.engine import LOCK_TIMEOUT_OPTION

# Any number that nothing else on the server locks.
ADVISORY_LOCK = 7_263_981_150_442_771
# A migration that cannot have its lock gives up before the queue behind it stops the workers.
LOCK_TIMEOUT_S = 5.0


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Runs what is missing, each migration in a transaction; two at once wait for each other.

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
    """Keeps other migrations waiting, on PostgreSQL; SQLite's own lock does it there.

    The lock belongs to a transaction that is open meanwhile, on a connection of its own. A lock of
    a session would stay with a pooler's connection to the server, for ever.
    """
    if engine.dialect.name != "postgresql":
        yield
        return
    with engine.connect() as holder:
        # Another migration may take its time, and so may ours.
        holder.execute(text("SET LOCAL lock_timeout = 0"))
        holder.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        holder.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        yield
