"""Names a process in SQL: `host-pid-random`, unique for each start of a process.

A system reuses process ids, and a new process must not inherit an old one's lease. A host name may
have hyphens, so names are parsed from the end.
"""

from __future__ import annotations

import os
import secrets
import socket


def name_process() -> str:
    """Makes a new name for this process."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def is_here(name: str, pid: int | None = None) -> bool:
    """Whether the name belongs to this machine and, if given, to this process id."""
    parts = name.rsplit("-", 2)
    is_whole = len(parts) == len(("host", "pid", "random"))
    return is_whole and parts[0] == socket.gethostname() and pid in (None, int(parts[1]))
