"""One run of one chunk: the stage of each image, and the outcomes.

The task's thread creates the run and waits for it. The pool's and the batcher's threads report
outcomes with `settle`, many in one call, each image once. The run owns the outcomes until they are
stored.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import inf

from worker.chunk.claim import Claim
from worker.chunk.outcome import Outcome


class ClassifierFault(Exception):
    """The device failed on a batch. None of its images is to blame."""


@dataclass(frozen=True)
class Snapshot:
    """A run's state for the store."""

    outcomes: dict[int, Outcome]
    """Outcomes that are not stored yet, by position."""
    unsettled: frozenset[int]
    """Positions without an outcome."""
    closed: bool
    """Whether the run is over, so that images without an outcome are handed back."""
    deferred: frozenset[int] = frozenset()
    """Positions without an outcome that no loader took, because their hosts had no room."""
    fault: Exception | None = None
    """The error that interrupted the run, if there was one."""


class ChunkRun:
    """Images go from waiting to loading to classifying to settled. A failed load skips classifying.
    An image that no loader takes is deferred, and handed back when the run has nothing else to do.
    """

    def __init__(self, claim: Claim, *, sampled: frozenset[int] = frozenset()) -> None:
        """`sampled` has the positions in the job's sample, which get thumbnails."""
        self.claim = claim
        self.sampled = sampled
        self.has_thumbnails = False
        """Whether some of its images have thumbnails, which are stored after their rows."""
        self.began_at = time.monotonic()
        self._changed = threading.Condition()
        self._outcomes: dict[int, Outcome] = {}
        self._waiting = set(claim.images)
        self._loading: dict[int, float] = {}  # position: start, on the monotonic clock
        self._classifying: set[int] = set()
        self._deferred: frozenset[int] = frozenset()
        self._draining = False
        self._impatient = False
        """Whether the patience is over, so that the task waits only for the classifier."""
        self._closed = False
        self._fault: Exception | None = None
        self._cut_off: set[int] = set()
        """Images that had no outcome when the error occurred."""
        self._when_ready: Callable[[ChunkRun], None] | None = None

    @property
    def is_closed(self) -> bool:
        """Whether the run accepts no more outcomes. Reads without the lock."""
        return self._closed

    def in_flight(self) -> dict[str, int]:
        """The number of images by stage. Reads without the lock, so it may be off by some."""
        return {
            "waiting": len(self._waiting),
            "loading": len(self._loading),
            "classifying": len(self._classifying),
            "settled": len(self._outcomes),
        }

    def in_hand(self) -> int:
        """The number of images without an outcome. If there are none, the number that must still be
        stored. Reads without the lock.
        """
        unsettled = len(self._waiting) + len(self._loading) + len(self._classifying)
        return unsettled or len(self._outcomes)

    def begin_loading(self, positions: Collection[int], since: float | None = None) -> None:
        """Notes that loaders have accepted these images, or that they are parked. Their outcomes
        may arrive before this call.

        `since` is the start of the wait for images that were refused at first.
        """
        with self._changed:
            begun = self._waiting.intersection(positions)
            self._waiting -= begun
            self._loading |= dict.fromkeys(begun, time.monotonic() if since is None else since)

    def defer(self, positions: Collection[int]) -> None:
        """Stops waiting for these images. They run later, in another run."""
        with self._changed:
            self._deferred = frozenset(self._waiting.intersection(positions))
            self._waiting -= self._deferred

    def begin_classifying(self, positions: Collection[int]) -> bool:
        """Returns False if the run has handed them back in the meantime."""
        with self._changed:
            if self._closed or self._fault is not None:
                return False
            self._waiting.difference_update(positions)
            for position in positions:
                self._loading.pop(position, None)
            self._classifying.update(positions)
            return True

    def settle(self, outcomes: Mapping[int, Outcome]) -> None:
        """Takes outcomes by position. Ignores images that have one already or were handed back."""
        with self._changed:
            if self._closed:
                return
            if self._classifying.issuperset(outcomes):  # almost always
                self._classifying.difference_update(outcomes)
                self._outcomes.update(outcomes)
            else:
                for position, outcome in outcomes.items():
                    if self._leave(position):
                        self._outcomes[position] = outcome
            callback = self._announce()
        if callback is not None:
            callback(self)

    def fail(self, fault: Exception) -> None:
        """Ends the run after an error, and keeps the outcomes that it has."""
        with self._changed:
            self._fault = self._fault or fault
            self._cut_off |= self._waiting | self._loading.keys() | self._classifying
            self._waiting.clear()
            self._loading.clear()
            self._classifying.clear()
            callback = self._announce()
        if callback is not None:
            callback(self)

    def drain(self) -> None:
        """Waits only for the classifier from now on, because the worker stops. The other images are
        handed back.
        """
        with self._changed:
            self._draining = True
            callback = self._announce()
        if callback is not None:
            callback(self)

    def wait_until_settled(self, patience_s: float) -> None:
        """Returns when all images have an outcome; or when all others have been loading for
        `patience_s`; or when the run drains and the classifier has none of its images.
        """
        with self._changed:
            while (wait_s := self._wait_s(patience_s)) != 0:
                self._changed.wait(wait_s)

    def when_ready(self, callback: Callable[[ChunkRun], None]) -> None:
        """Calls back once: when all images have an outcome, or when the run drains and the
        classifier has none of its images. This may be at once.
        """
        with self._changed:
            self._when_ready = callback
            due = self._announce()
        if due is not None:
            due(self)

    def snapshot(self) -> Snapshot:
        """Returns what can be stored. If the run drains or has failed, this closes it."""
        with self._changed:
            in_hand = self._waiting | self._loading.keys() | self._classifying
            unsettled = self._deferred | in_hand | self._cut_off
            if self._fault is not None or (unsettled and (self._draining or not in_hand)):
                self._closed = True
            return Snapshot(
                dict(self._outcomes), unsettled, self._closed, self._deferred, self._fault
            )

    def forget(self, stored: Collection[int]) -> None:
        """Removes outcomes that are in SQL."""
        with self._changed:
            for position in stored:
                del self._outcomes[position]

    def close(self) -> None:
        """Accepts no more outcomes."""
        with self._changed:
            self._closed = True

    def _leave(self, position: int) -> bool:
        """Removes an image from its stage. Returns False if it has an outcome already."""
        for places in (self._classifying, self._waiting):
            if position in places:
                places.remove(position)
                return True
        return self._loading.pop(position, None) is not None

    def _wait_s(self, patience_s: float) -> float | None:
        """How long to wait: 0 for no longer, None until something changes."""
        if self._is_ready():
            return 0
        newest = max(self._loading.values(), default=-inf)
        left_s = max(0.0, newest + patience_s - time.monotonic())
        self._impatient = not left_s
        return None if self._impatient and (self._classifying or self._waiting) else left_s

    def _is_ready(self) -> bool:
        return not self._classifying and (self._draining or not (self._waiting or self._loading))

    def _announce(self) -> Callable[[ChunkRun], None] | None:
        """Wakes the waiting task, but only if its wait may be over: waking it for each batch would
        cost more than the chunk. Returns the callback that is due; call it without the lock.
        """
        ready = self._is_ready()
        if ready or (self._impatient and not self._classifying):
            self._changed.notify_all()
        if not ready:
            return None
        callback, self._when_ready = self._when_ready, None
        return callback
