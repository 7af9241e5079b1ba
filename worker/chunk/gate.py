"""Admits runs to a worker: many together, or one alone.

A task enters before its run begins, and `worker.chunk.live_runs` leaves when the run's last image
is stored. The run of an image that may crash the worker waits until the others have left, and
later runs wait until it has left. So a crash affects no other run. If the wait is longer than
`producer.dispatcher.unclaimed` allows for a claim, the messages of the waiting tasks are published
again, and their own claims are then refused.
"""

from __future__ import annotations

import threading


class Gate:
    """Owns the count of the runs inside, and whether one of them is alone."""

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
        """Lets all waiting tasks in, because the worker is stopping and begins no more images."""
        with self._changed:
            self._open = True
            self._changed.notify_all()
