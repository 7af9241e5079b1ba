"""Messages that no program of ours can have sent: logged, counted and dropped.

Whatever they were about stays as it is in SQL, and the dispatcher publishes it again.
"""

from __future__ import annotations

import logging
import threading

log = logging.getLogger(__name__)

_lock = threading.Lock()
_count = 0


def drop(reason: object) -> None:
    global _count  # noqa: PLW0603  (one for the process, as its metrics are)
    with _lock:
        _count += 1
    log.error("Dropped a message: %s", reason)


def dropped() -> int:
    """How many this process has dropped."""
    return _count
