"""Names a process in SQL: `host-pid-random`, unique to one life of one process.

Process ids come again, and a lease must not outlive its holder. A host's name may have hyphens, so
a name is read from its end.
"""

from __future__ import annotations

import os
import secrets
import socket


def name_process() -> str:
    """A name for this life of this process."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def is_here(name: str, pid: int | None = None) -> bool:
    """Whether a process of this machine has the name, and this process id where one is given."""
    parts = name.rsplit("-", 2)
    is_whole = len(parts) == len(("host", "pid", "random"))
    return is_whole and parts[0] == socket.gethostname() and pid in (None, int(parts[1]))
