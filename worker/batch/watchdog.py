"""Sees to it that a device which hangs does not hang its worker for ever.

The batcher's thread waits for the device without a limit, while heartbeats go on: no other worker
would take over what this one has. So a thread of its own looks at how long the batch takes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

HUNG_AFTER_S: Final = 60.0
"""A batch takes a GPU less than a second. Compiling and capturing are over before the first one."""
_LOOKS: Final = 20  # in that time


class Watchdog:
    """Owns the thread that looks, from `start` to `close`."""

    def __init__(
        self,
        busy_s: Callable[[], float],
        when_hung: Callable[[float], object],
        *,
        hung_after_s: float = HUNG_AFTER_S,
    ) -> None:
        """
        Args:
            busy_s: how long the device has been computing one batch, as seen from outside.
            when_hung: called once, in the watchdog's thread, with that time.
            hung_after_s: when it hangs.
        """
        self._busy_s = busy_s
        self._when_hung = when_hung
        self._hung_after_s = hung_after_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Nothing is looked at any more. The thread may be the caller's own."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(self._hung_after_s / _LOOKS):
            busy_s = self._busy_s()
            if busy_s > self._hung_after_s:
                self._when_hung(busy_s)
                return
