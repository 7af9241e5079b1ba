"""Calls prctl(2), by which a process changes its own state on Linux. Does nothing elsewhere."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Any, Final

# <linux/prctl.h>
PR_SET_PDEATHSIG: Final = 1
"""The process gets this signal when the thread that started it ends."""
PR_GET_PDEATHSIG: Final = 2
PR_SET_DUMPABLE: Final = 4
"""With 0, no other process of the same user may read its memory or its environment."""
PR_CAPBSET_DROP: Final = 24
"""Programs that it executes do not get this capability."""
PR_SET_SECCOMP: Final = 22
"""With 2, its system calls go through a filter, to which the second argument points."""
PR_SET_NO_NEW_PRIVS: Final = 38
"""With 1, programs that it executes do not get more rights than it has itself."""
PR_GET_NO_NEW_PRIVS: Final = 39
PR_SET_CHILD_SUBREAPER: Final = 36
PR_CAP_AMBIENT: Final = 47
"""With 4, programs that it executes inherit no capabilities."""
PR_SET_PTRACER: Final = 0x5961_6D61
"""Which process may read its memory, besides its ancestors."""


def prctl(option: int, value: int, pointer: Any = None) -> int:  # noqa: ANN401  (ctypes has none)
    """Returns Linux's answer. It is negative if the call failed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "prctl"):
        return -1
    unsigned = ctypes.c_ulong
    answer: int = libc.prctl(option, unsigned(value), pointer, unsigned(0), unsigned(0))
    return answer


def die_with(parent: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Makes the kernel end this process with the signal `by` when its parent ends.

    Call it in the child, as early as possible. `parent` is the id of the process that started it.
    If that process has already ended, this process ends at once.
    """
    prctl(PR_SET_PDEATHSIG, by)
    if os.getppid() != parent:  # the parent ended before the call
        os._exit(1)
