"""A note from the worker to its supervisor that the device is the reason why the worker ends.

A broken GPU can end the process by a signal, and so can an image that crashes a decoder. The
worker notes the cause in memory that both processes share. The supervisor reads it after the
worker's end, and then suspects no image. The note is not in SQL, because the database may be down
at that moment.
"""

from __future__ import annotations

import mmap
from typing import Final

_LONGEST_BYTES: Final = 1000


class Cause:
    """Memory that the worker and its supervisor share. Make it before the fork."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def note(self, cause: str) -> None:
        text = cause.encode(errors="replace")[:_LONGEST_BYTES]
        self._memory[: len(text)] = text

    def read(self) -> str:
        """The noted cause, or an empty string."""
        return self._memory[:_LONGEST_BYTES].rstrip(b"\0").decode(errors="replace")


device_fault: Final = Cause()
