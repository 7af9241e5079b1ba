"""Checks that a dispatcher runs on this machine: `python -m producer.health [PID]`.

Health checks of containers call it. A dispatcher that leads or stands by has a recent row in
`leaders`. In a container each dispatcher has its own host name.
"""

from __future__ import annotations

import socket
import sys

from sqlalchemy import Connection, select

from contract.database.clock import db_now
from contract.database.tables import leaders
from contract.health import check_health
from contract.process_name import is_here
from contract.settings import Settings
from producer.dispatcher.leader import dead_after_s


def fault_of(connection: Connection, settings: Settings, pid: int | None = None) -> str:
    """What is wrong, as a sentence. Empty if a dispatcher leads or stands by."""
    silent_s = dead_after_s(settings.dispatch_interval_s)
    names = connection.scalars(
        select(leaders.c.holder).where(leaders.c.held_at > db_now(-silent_s))
    )
    if any(is_here(name, pid) for name in names):
        return ""
    which = "" if pid is None else f" with the process id {pid}"
    return (
        f"No dispatcher on {socket.gethostname()}{which} has led or stood by for {silent_s:.0f} s."
    )


def main() -> int:
    return check_health(fault_of, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
