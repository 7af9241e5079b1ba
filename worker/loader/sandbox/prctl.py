"""What a process asks of Linux for itself, by prctl(2); elsewhere nothing happens."""

from __future__ import annotations

import ctypes
from typing import Any, Final

# <linux/prctl.h>
PR_SET_PDEATHSIG: Final = 1
"""To be sent this signal when its parent ends."""
PR_SET_DUMPABLE: Final = 4
"""0: no other process of the same user may read its memory or its environment."""
PR_SET_SECCOMP: Final = 22
"""2: what the kernel is asked for goes through a filter, which the second argument points to."""
PR_SET_NO_NEW_PRIVS: Final = 38
"""1: no program that it executes gets more rights than it has itself."""
PR_GET_NO_NEW_PRIVS: Final = 39


def prctl(option: int, value: int, pointer: Any = None) -> int:  # noqa: ANN401  (ctypes has none)
    """What Linux answers: below 0, no."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "prctl"):
        return -1
    unsigned = ctypes.c_ulong
    answer: int = libc.prctl(option, unsigned(value), pointer, unsigned(0), unsigned(0))
    return answer
