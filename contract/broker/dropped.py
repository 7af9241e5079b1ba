"""Drops messages that this project cannot have sent; logs and counts them.

If such a message was for a chunk, SQL still has the chunk, and the dispatcher publishes it again.
"""

from __future__ import annotations

import logging
import threading

log = logging.getLogger(__name__)

_lock = threading.Lock()
_count = 0


def drop(reason: object) -> None:
    global _count  # noqa: PLW0603  (one count for the process, like its metrics)
    with _lock:
        _count += 1
    log.error("Dropped a message: %s", reason)


def dropped() -> int:
    """How many messages this process has dropped."""
    return _count
