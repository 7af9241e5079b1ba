"""Whether a worker of this machine is well, by its row in SQL: `python -m worker.health [PID]`.

For health checks of containers, where each worker has a host name of its own. Where several workers
share one, the process id of `resnextq worker` says which is meant. `resnextq up` asks for the one
that it has started. No torch is loaded.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

from sqlalchemy import Connection, Row, select

from contract.database.clock import db_now
from contract.database.tables import workers
from contract.health import check_health
from contract.process_name import is_here
from contract.settings import Settings


def find_worker(
    connection: Connection, settings: Settings, pid: int | None = None
) -> Row[Any] | None:
    """The row of a worker of this machine that lives: its lease is not over, it did not crash.

    One that takes work goes before one that is stopping.
    """
    rows = connection.execute(
        select(workers)
        .where(
            workers.c.name.startswith(f"{socket.gethostname()}-", autoescape=True),
            workers.c.heartbeat_at > db_now(-settings.lease_s),
            workers.c.crashed_by.is_(None),
        )
        .order_by(workers.c.stopping)
    )
    return next((row for row in rows if is_here(row.name, pid)), None)


def fault_of(connection: Connection, settings: Settings, pid: int | None = None) -> str:
    """What is wrong, as a sentence; empty where a worker is well."""
    worker = find_worker(connection, settings, pid)
    if worker is None:
        which = "" if pid is None else f" with the process id {pid}"
        return (
            f"No worker on {socket.gethostname()}{which} lives: each has crashed, or has sent no "
            f"heartbeat for {settings.lease_s:.0f} s."
        )
    return f"The worker {worker.name} is stopping." if worker.stopping else ""


def main() -> int:
    return check_health(fault_of, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
