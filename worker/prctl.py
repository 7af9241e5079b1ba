"""What a process asks of Linux for itself, by prctl(2); elsewhere nothing happens."""

from __future__ import annotations

import ctypes
from typing import Final

# <linux/prctl.h>
PR_SET_PDEATHSIG: Final = 1
"""To be sent this signal when its parent ends."""
PR_SET_DUMPABLE: Final = 4
"""0: no other process of the same user may read its memory or its environment."""


def prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(option, value)
