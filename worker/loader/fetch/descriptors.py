"""File descriptors: how many fetches they are enough for, and whether any are left."""

from __future__ import annotations

import os
import resource
from typing import Final

# Besides the fetches': libraries, the loader's own sockets, look-ups.
_RESERVED: Final = 64
# A connection in use, and one that is kept.
A_FETCH: Final = 2


def limit() -> int:
    """How many this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def fetches_within(descriptors: int) -> int:
    """How many fetches at once these are enough for."""
    return max(1, (descriptors - _RESERVED) // A_FETCH)


def are_left() -> bool:
    """Whether this process can open anything."""
    try:
        os.close(os.eventfd(0))
    except OSError:
        return False
    return True
