"""Checks by its row in SQL whether a worker of this machine is healthy.

`python -m worker.health [PID]` is for health checks of containers, where each worker has its own
host name. If several workers share a host name, give the process id of `resnextq worker`.
`resnextq up` looks for the worker that it has started. This module does not load torch.
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
    """Returns the row of a worker of this machine whose lease has not ended and that did not crash.

    Prefers a worker that takes work to one that is stopping.
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
    """Returns what is wrong, as a sentence, or an empty string if a worker is healthy."""
    worker = find_worker(connection, settings, pid)
    if worker is None:
        which = "" if pid is None else f" with the process id {pid}"
        return (
            f"No worker is alive on {socket.gethostname()}{which}: each has crashed, or has sent "
            f"no heartbeat for {settings.lease_s:.0f} s."
        )
    return f"The worker {worker.name} is stopping." if worker.stopping else ""


def main() -> int:
    return check_health(fault_of, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
