"""File descriptors: how many fetches they allow, and whether any are left."""

from __future__ import annotations

import os
import resource
from typing import Final

# For libraries, the loader's own sockets and look-ups.
_RESERVED: Final = 64
# A connection in use, and one that is kept open.
A_FETCH: Final = 2


def limit() -> int:
    """The most descriptors that this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def fetches_within(descriptors: int) -> int:
    """The number of concurrent fetches for which these descriptors are enough."""
    return max(1, (descriptors - _RESERVED) // A_FETCH)


def are_left() -> bool:
    """Whether this process can open another file."""
    try:
        os.close(os.eventfd(0))
    except OSError:
        return False
    return True
