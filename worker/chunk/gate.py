"""Lets runs into a worker: all together, or one that has to be alone.

A task enters before its run begins and `worker.chunk.live_runs` leaves when its last image is
stored. The run of an image that may end the worker waits until the others have left, and who comes
then waits until it has left, so that its death is nobody else's. If that takes longer than
`producer.dispatcher.unclaimed` waits for a claim, the messages of those who wait go out once more,
and their own claims are refused.
"""

from __future__ import annotations

import threading


class Gate:
    """Owns how many runs are inside, and whether one of them is alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._waiting_alone = 0
        self._alone = False
        self._open = False

    def enter(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._open or not (self._alone or self._waiting_alone))
            self._inside += 1

    def enter_alone(self) -> None:
        with self._changed:
            self._waiting_alone += 1
            self._changed.wait_for(lambda: self._open or not self._inside)
            self._waiting_alone -= 1
            self._inside += 1
            self._alone = True

    def leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._alone = False
            self._changed.notify_all()

    def open(self) -> None:
        """The worker stops: nobody waits any more, and no image is begun."""
        with self._changed:
            self._open = True
            self._changed.notify_all()
