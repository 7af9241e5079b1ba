"""Whether a worker of this machine lives, by its heartbeat in SQL: `python -m worker.health`.

For health checks of containers, where each worker has a host name of its own; `resnextq up`
asks for the one that it has started. No torch is loaded.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

from sqlalchemy import Connection, Row, select

from contract.database.clock import db_now
from contract.database.engine import connect_database, reaching_database, reading
from contract.database.tables import workers
from contract.errors import ResnextQueueError
from contract.settings import Settings, load_settings


def find_worker(
    connection: Connection, settings: Settings, pid: int | None = None
) -> Row[Any] | None:
    """The row of a worker of this machine (with that process id) whose lease is not over."""
    name = f"{socket.gethostname()}-" if pid is None else f"{socket.gethostname()}-{pid}-"
    return connection.execute(
        select(workers).where(
            workers.c.name.startswith(name, autoescape=True),
            workers.c.heartbeat_at > db_now(-settings.lease_s),
        )
    ).first()


def main() -> int:
    """The exit status: 0 healthy, 1 not."""
    try:
        settings = load_settings()
        engine = connect_database(settings)
        with reaching_database(engine), reading(engine) as connection:
            worker = find_worker(connection, settings)
    except ResnextQueueError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if worker is None:
        sys.stderr.write(f"No worker on {socket.gethostname()} has sent a heartbeat.\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
