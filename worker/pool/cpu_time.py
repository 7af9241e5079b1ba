"""How much processor time a loader has had: `worker.pool.process` holds the deadline against it."""

from __future__ import annotations

import time
from typing import Final

# linux/posix-timers.h: the clock of a process is made of its id, and counts what the scheduler
# gave to all of its threads.
_CLOCK_BITS: Final = 3
_SCHEDULER: Final = 2


def cpu_s_of(pid: int) -> float:
    """Of a child of this process, in seconds; 0 once it is dead."""
    try:
        return time.clock_gettime(~pid << _CLOCK_BITS | _SCHEDULER)
    except OSError:
        return 0.0
