"""Why a worker ends, where its device is the reason: what it tells its supervisor beforehand.

A broken GPU can end the process by a signal, as an image can that a decoder does not survive. The
worker notes the cause in memory that both processes share; the supervisor reads it afterwards,
and then no image is suspected. It is no row in SQL, which may be away at that moment.
"""

from __future__ import annotations

import mmap
from typing import Final

_LONGEST_BYTES: Final = 1000


class Cause:
    """Made before the fork, and one memory on both sides of it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def note(self, cause: str) -> None:
        text = cause.encode(errors="replace")[:_LONGEST_BYTES]
        self._memory[: len(text)] = text

    def read(self) -> str:
        """Empty where nothing was noted."""
        return self._memory[:_LONGEST_BYTES].rstrip(b"\0").decode(errors="replace")


device_fault: Final = Cause()
