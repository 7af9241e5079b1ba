"""One run of one chunk: which of its images are where, and what has become of them.

The task's thread makes it and waits on it; loaders and the batcher settle its images from
their threads, as many in one call as there are, each image once. Owns the outcomes until the
store has them.
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
    """The device failed on a batch; no image of it is to blame."""


@dataclass(frozen=True)
class Snapshot:
    """A run as the store sees it."""

    outcomes: dict[int, Outcome]
    """By position: finished and not stored yet."""
    unsettled: frozenset[int]
    """Positions without an outcome."""
    closed: bool
    """Nothing more comes of this run: the unsettled ones go back."""
    deferred: frozenset[int] = frozenset()
    """Unsettled positions that no loader took, since their hosts had no room."""
    fault: Exception | None = None
    """What cut the run off, where a fault did."""


class ChunkRun:
    """Waiting → loading → with the classifier → settled; a failed load skips the classifier.
    What no loader takes for now is deferred, and handed back once nothing else is in hand.
    """

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.began_at = time.monotonic()
        self._changed = threading.Condition()
        self._outcomes: dict[int, Outcome] = {}
        self._waiting = set(claim.images)
        self._loading: dict[int, float] = {}  # since
        self._classifying: set[int] = set()
        self._deferred: frozenset[int] = frozenset()
        self._draining = False
        self._impatient = False
        """Who waits has waited for long enough, but for the classifier."""
        self._closed = False
        self._fault: Exception | None = None
        self._cut_off: set[int] = set()
        """Images that had no outcome when the fault came."""
        self._when_ready: Callable[[ChunkRun], None] | None = None

    def in_flight(self) -> dict[str, int]:
        """Images by where they are; without the lock, so one may be seen twice or not at all."""
        return {
            "waiting": len(self._waiting),
            "loading": len(self._loading),
            "classifying": len(self._classifying),
            "settled": len(self._outcomes),
        }

    def in_hand(self) -> int:
        """Images that this worker has still to do, without the lock: those that are settled are
        work as well where nothing but their storing is left.
        """
        unsettled = len(self._waiting) + len(self._loading) + len(self._classifying)
        return unsettled or len(self._outcomes)

    def begin_loading(self, positions: Collection[int], since: float | None = None) -> None:
        """Loaders have accepted them, or they are parked; outcomes may have come before this call.

        `since` is for those that were refused first: they have been waited for since then.
        """
        with self._changed:
            begun = self._waiting.intersection(positions)
            self._waiting -= begun
            self._loading |= dict.fromkeys(begun, time.monotonic() if since is None else since)

    def defer(self, positions: Collection[int]) -> None:
        """These are not waited for: they come again later, in another run."""
        with self._changed:
            self._deferred = frozenset(self._waiting.intersection(positions))
            self._waiting -= self._deferred

    def begin_classifying(self, positions: Collection[int]) -> bool:
        """False if the run has handed them back meanwhile."""
        with self._changed:
            if self._closed or self._fault is not None:
                return False
            self._waiting.difference_update(positions)
            for position in positions:
                self._loading.pop(position, None)
            self._classifying.update(positions)
            return True

    def settle(self, outcomes: Mapping[int, Outcome]) -> None:
        """By position. Ignored where an image is settled already, or handed back."""
        with self._changed:
            if self._closed:
                return
            if self._classifying.issuperset(outcomes):  # as good as always
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
        """Waits for nothing more. What has an outcome keeps it; the rest goes back."""
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
        """The worker stops: wait for the classifier alone, hand back the rest."""
        with self._changed:
            self._draining = True
            callback = self._announce()
        if callback is not None:
            callback(self)

    def wait_until_settled(self, patience_s: float) -> None:
        """Returns once all is settled; or once all that is not has been loading for
        `patience_s`; or once the run drains and nothing of it is with the classifier.
        """
        with self._changed:
            while (wait_s := self._wait_s(patience_s)) != 0:
                self._changed.wait(wait_s)

    def when_ready(self, callback: Callable[[ChunkRun], None]) -> None:
        """Calls back once, when all is settled, or the run drains and nothing of it is with
        the classifier; at once if it is so.
        """
        with self._changed:
            self._when_ready = callback
            due = self._announce()
        if due is not None:
            due(self)

    def snapshot(self) -> Snapshot:
        """What there is to store. A run that drains or has failed takes in nothing after this."""
        with self._changed:
            in_hand = self._waiting | self._loading.keys() | self._classifying
            unsettled = self._deferred | in_hand | self._cut_off
            if self._fault is not None or (unsettled and (self._draining or not in_hand)):
                self._closed = True
            return Snapshot(
                dict(self._outcomes), unsettled, self._closed, self._deferred, self._fault
            )

    def forget(self, stored: Collection[int]) -> None:
        """These are in SQL."""
        with self._changed:
            for position in stored:
                del self._outcomes[position]

    def close(self) -> None:
        """Nothing is taken in after this."""
        with self._changed:
            self._closed = True

    def _leave(self, position: int) -> bool:
        """Takes an image from where it is; False if it is settled."""
        for places in (self._classifying, self._waiting):
            if position in places:
                places.remove(position)
                return True
        return self._loading.pop(position, None) is not None

    def _wait_s(self, patience_s: float) -> float | None:
        """0: wait no more; None: until something changes."""
        if self._is_ready():
            return 0
        newest = max(self._loading.values(), default=-inf)
        left_s = max(0.0, newest + patience_s - time.monotonic())
        self._impatient = not left_s
        return None if self._impatient and (self._classifying or self._waiting) else left_s

    def _is_ready(self) -> bool:
        return not self._classifying and (self._draining or not (self._waiting or self._loading))

    def _announce(self) -> Callable[[ChunkRun], None] | None:
        """Wakes who waits, where it matters to them: a wake-up a batch would cost more than the
        chunk. Returns the callback that is due, to be called without the lock.
        """
        ready = self._is_ready()
        if ready or (self._impatient and not self._classifying):
            self._changed.notify_all()
        if not ready:
            return None
        callback, self._when_ready = self._when_ready, None
        return callback
