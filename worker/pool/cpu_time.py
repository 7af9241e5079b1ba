"""Reads a loader's processor time, which `worker.pool.process` compares with the deadline."""

from __future__ import annotations

import time
from typing import Final

# linux/posix-timers.h: the id of a process's clock is made from the process id. The clock counts
# the processor time of all its threads.
_CLOCK_BITS: Final = 3
_SCHEDULER: Final = 2


def cpu_s_of(pid: int) -> float:
    """The processor time of a child of this process, in seconds; 0 if it is dead."""
    try:
        return time.clock_gettime(~pid << _CLOCK_BITS | _SCHEDULER)
    except OSError:
        return 0.0
