"""Sees to it that a device which hangs does not hang its process for ever.

Who waits for a device waits without a limit. In a worker heartbeats go on meanwhile: no other
worker would take over what this one has. So a thread of its own looks at how long a batch takes.
`worker.batch.batcher` and `resnextq classify` have one.
"""

from __future__ import annotations

import threading
import time
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


class Busy:
    """Says how long the work below its `with` has taken, to a watchdog of another thread."""

    def __init__(self) -> None:
        self._since: float | None = None

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._since = None

    def seconds(self) -> float:
        """0 where nothing is being done."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since
