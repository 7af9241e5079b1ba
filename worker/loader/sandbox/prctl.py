"""What a process asks of Linux for itself, by prctl(2); elsewhere nothing happens."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Any, Final

# <linux/prctl.h>
PR_SET_PDEATHSIG: Final = 1
"""To be sent this signal when the thread that started it ends."""
PR_GET_PDEATHSIG: Final = 2
PR_SET_DUMPABLE: Final = 4
"""0: no other process of the same user may read its memory or its environment."""
PR_CAPBSET_DROP: Final = 24
"""No program that it executes gets this capability."""
PR_SET_SECCOMP: Final = 22
"""2: what the kernel is asked for goes through a filter, which the second argument points to."""
PR_SET_NO_NEW_PRIVS: Final = 38
"""1: no program that it executes gets more rights than it has itself."""
PR_GET_NO_NEW_PRIVS: Final = 39
PR_SET_CHILD_SUBREAPER: Final = 36
PR_CAP_AMBIENT: Final = 47
"""4: no capability is passed on to programs that it executes."""
PR_SET_PTRACER: Final = 0x5961_6D61
"""Who may read its memory, besides those above it."""


def prctl(option: int, value: int, pointer: Any = None) -> int:  # noqa: ANN401  (ctypes has none)
    """What Linux answers: below 0, no."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "prctl"):
        return -1
    unsigned = ctypes.c_ulong
    answer: int = libc.prctl(option, unsigned(value), pointer, unsigned(0), unsigned(0))
    return answer


def die_with(parent: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Has the kernel end this process, by this signal, when its parent ends.

    To be called in the child, as early as possible. `parent` is the id of the process that
    started it; if that has ended already, this process ends at once.
    """
    prctl(PR_SET_PDEATHSIG, by)
    if os.getppid() != parent:  # it ended before the kernel was asked
        os._exit(1)
