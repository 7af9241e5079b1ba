"""Ensures that a hanging device does not hang its process for ever.

Waiting for a device has no time limit. A worker's heartbeats would continue meanwhile, so no other
worker would take over its chunks. So a thread checks how long a batch takes.
`worker.batch.batcher` and `resnextq classify` have one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

HUNG_AFTER_S: Final = 60.0
"""A batch takes a GPU less than a second. Compiling and capturing end before the first batch."""
_LOOKS: Final = 20  # checks during that time


class Watchdog:
    """Owns the checking thread, from `start` to `close`."""

    def __init__(
        self,
        busy_s: Callable[[], float],
        when_hung: Callable[[float], object],
        *,
        hung_after_s: float = HUNG_AFTER_S,
    ) -> None:
        """
        Args:
            busy_s: returns how long the device has been computing one batch.
            when_hung: called once, in the watchdog's thread, with that time.
            hung_after_s: the time after which the device counts as hung.
        """
        self._busy_s = busy_s
        self._when_hung = when_hung
        self._hung_after_s = hung_after_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends the checks. May be called in the watchdog's own thread."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(self._hung_after_s / _LOOKS):
            busy_s = self._busy_s()
            if busy_s > self._hung_after_s:
                self._when_hung(busy_s)
                return


class Busy:
    """A context that tells a watchdog in another thread how long its work has taken."""

    def __init__(self) -> None:
        self._since: float | None = None

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._since = None

    def seconds(self) -> float:
        """Seconds since the work started; 0 if there is none."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since
