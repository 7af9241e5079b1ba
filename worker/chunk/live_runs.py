"""The runs that a worker has in hand, from their claim until the last of their images is stored.

The task enters a run and stores what is settled; the straggler keeper stores the rest. When
the worker stops, all of them are told here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from contract.failure import Failure
from worker.chunk.claim import Claim
from worker.chunk.gate import Gate
from worker.chunk.outcome import Outcome, Provenance
from worker.chunk.prefetch import InHand
from worker.chunk.run import ChunkRun, ClassifierFault, Snapshot
from worker.chunk.store import FencedOff, Store, Stored
from worker.metrics.stages import Metrics

log = logging.getLogger(__name__)

# Of the moving average of a chunk's images: what the newest one counts.
NEWEST_WEIGHT: Final = 0.1


class Runs:
    """Owns the set of live runs, and whether the worker is stopping."""

    def __init__(
        self,
        store: Store,
        *,
        max_attempts: int,
        chunk_images: int,
        metrics: Metrics | None = None,
    ) -> None:
        """`chunk_images`: what a chunk is taken to have until some have come."""
        self.stopping = threading.Event()
        self.gate = Gate()
        """Entered by the task before a run is, and left with it."""
        self.images_per_chunk = float(chunk_images)
        self._store = store
        self._max_attempts = max_attempts
        self._metrics = metrics or Metrics()
        self._lock = threading.Lock()
        self._live: set[ChunkRun] = set()
        self._outlived: set[ChunkRun] = set()
        """Those of the live ones whose tasks have ended."""

    def __len__(self) -> int:
        return len(self._live)

    def in_flight(self) -> dict[str, int]:
        """Images that are claimed and not stored, by where they are."""
        with self._lock:
            live = list(self._live)
        total = Counter(dict.fromkeys(("waiting", "loading", "classifying", "settled"), 0))
        for run in live:
            total.update(run.in_flight())
        return total

    def in_hand(self) -> InHand:
        """What holds this worker back from taking more."""
        with self._lock:
            tasks = self._live - self._outlived
            waiting = sum(run.in_flight()["waiting"] for run in tasks)
            return InHand(len(tasks), sum(run.in_hand() for run in tasks), waiting)

    def enter(self, run: ChunkRun) -> None:
        self._metrics.note_claim(run.claim.queue_wait_s)
        with self._lock:
            self._live.add(run)
            if not run.claim.message.alone:
                more = len(run.claim.images) - self.images_per_chunk
                self.images_per_chunk += NEWEST_WEIGHT * more
        if self.stopping.is_set():
            run.drain()

    def drain(self) -> None:
        """No image is begun any more; what is not with the classifier is handed back."""
        self.stopping.set()
        self.gate.open()
        with self._lock:
            live = list(self._live)
        for run in live:
            run.drain()

    def outlive_task(self, run: ChunkRun) -> None:
        """Its task ends, and somebody else sees to the rest."""
        with self._lock:
            self._outlived.add(run)

    def store(self, run: ChunkRun) -> Stored | None:
        """Stores what is settled; None if the chunk is another run's by now."""
        try:
            stored = self._store_and_note(run.claim, run.snapshot())
        except FencedOff as reason:
            log.warning("%s; what this one has is dropped", reason)
            self._leave(run)
            return None
        run.forget(stored.positions)
        if not stored.loading:
            self._leave(run)
        return stored

    def fail(self, run: ChunkRun, fault: Exception) -> None:
        """After a fault of our own: the chunk is run again later, until it has had its attempts;
        then its images get the code `internal`. For a fault of the classifier none ever does: it
        is the device's, or its worker's, which leaves the chunk to another one.
        """
        of_classifier = isinstance(fault, ClassifierFault)
        if of_classifier:
            log.warning("%s: %s; it is run again later", run.claim, fault)
        else:
            log.error("%s: a fault of this program", run.claim, exc_info=fault)
        try:
            if run.claim.attempt >= self._max_attempts and not of_classifier:
                self._store_and_note(run.claim, _condemn(run, fault))
            else:
                self._store.put_back(run.claim)
        except FencedOff as reason:
            log.warning("%s", reason)
        except Exception:
            log.exception("%s: not to be stored; it is run again later", run.claim)
            self._store.put_back(run.claim)
        finally:
            self._leave(run)

    def _store_and_note(self, claim: Claim, snapshot: Snapshot) -> Stored:
        """
        Raises:
            FencedOff: the chunk is another run's by now; nothing is stored, or counted.
        """
        began_at = time.monotonic()
        stored = self._store.store(claim, snapshot)
        store_s = time.monotonic() - began_at
        # What is to be retried stays with its run, and counts when that is stored at last.
        left = () if stored.loading else snapshot.outcomes.keys() - stored.positions
        retried = [snapshot.outcomes[position] for position in left]
        final = [snapshot.outcomes[position] for position in stored.positions]
        stages = self._metrics.note_stored([*final, *retried], _counts(stored, retried), store_s)
        return replace(stored, stages=stages)

    def _leave(self, run: ChunkRun) -> None:
        run.close()
        with self._lock:
            is_first = run in self._live
            self._live.discard(run)
            self._outlived.discard(run)
        if is_first:
            self.gate.leave()


def _counts(stored: Stored, retried: Iterable[Outcome]) -> dict[tuple[str, ...], int]:
    """Images by outcome and code."""
    codes = Counter(one.result.code for one in retried if isinstance(one.result, Failure))
    return {
        ("classified", ""): stored.classified,
        ("handed_back", ""): stored.handed_back,
        **{("failed", code): images for code, images in stored.failed.items()},
        **{("retried", code): images for code, images in codes.items()},
    }


def _condemn(run: ChunkRun, fault: Exception) -> Snapshot:
    left = run.snapshot()
    outcome = Outcome(Failure("internal", type(fault).__name__), Provenance())
    return Snapshot(
        dict.fromkeys([*left.outcomes, *left.unsettled], outcome), frozenset(), closed=True
    )
