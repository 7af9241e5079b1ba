"""`resnextq db upgrade`: brings a database from any earlier schema to the newest."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, text

# Any number that nothing else on the server locks.
ADVISORY_LOCK = 7_263_981_150_442_771
# A migration that cannot have its lock gives up before the queue behind it stops the workers.
LOCK_TIMEOUT = "5s"


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Runs what is missing, each migration in a transaction; two at once wait for each other.

    `revision` is a schema's number in four digits, or "head".
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    with engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            _lock(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def _lock(connection: Connection) -> None:
    """Held until the connection closes, which therefore goes back to no pool."""
    connection.detach()
    connection.execute(text("SET lock_timeout = 0"))  # another migration may take its time
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.commit()
