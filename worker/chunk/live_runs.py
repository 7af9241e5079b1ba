"""The runs of a worker, from their claim until the last of their images is stored.

The task enters a run and stores what is finished; the keeper of stragglers stores the rest. When
the worker stops, every run drains. What a fault of this program does to a run is decided here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from contract.broker.message import ChunkMessage
from contract.chunks.fence import Fence
from contract.chunks.run import FencedOff
from contract.failure import Failure
from contract.flow import InHand
from worker.chunk.claim import Claim
from worker.chunk.gate import Gate
from worker.chunk.outcome import Outcome
from worker.chunk.run import ChunkRun, ClassifierFault, Snapshot
from worker.chunk.store import Store, Stored, blame, describe_fault
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
        chunk_images: int,
        metrics: Metrics | None = None,
    ) -> None:
        """`chunk_images`: what a chunk is taken to have until some have come."""
        self.stopping = threading.Event()
        self.gate = Gate()
        """Entered by the task before a run is, and left with it."""
        self.images_per_chunk = float(chunk_images)
        self._store = store
        self._metrics = metrics or Metrics()
        self._lock = threading.Lock()
        self._live: set[ChunkRun] = set()
        self._outlived: set[ChunkRun] = set()
        """Live runs whose tasks have ended."""
        self._claiming: Counter[Fence] = Counter()

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

    @contextmanager
    def claiming(self, fence: Fence) -> Iterator[None]:
        """While it is open, the chunk may be this worker's in SQL and have no run here yet."""
        with self._lock:
            self._claiming[fence] += 1
        try:
            yield
        finally:
            with self._lock:
                self._claiming[fence] -= 1
                self._claiming = +self._claiming  # without those at 0

    def held(self) -> set[Fence]:
        """Chunks that this worker runs, or may just be claiming."""
        with self._lock:
            return {*self._claiming, *(run.claim.fence for run in self._live)}

    def store(self, run: ChunkRun) -> Stored | None:
        """Stores what is finished; None if the chunk is another run's by now.

        Raises:
            Exception: a fault of this program; nothing is stored, and `fail` is to be called.
        """
        snapshot = run.snapshot()
        if isinstance(snapshot.fault, ClassifierFault):
            log.warning("%s: %s; what it cut off is run again later", run.claim, snapshot.fault)
        try:
            stored = self._store_and_note(run.claim, snapshot)
        except FencedOff as reason:
            log.warning("%s; what this one has is dropped", reason)
            self._leave(run)
            return None
        run.forget(stored.positions)
        if not stored.loading:
            self._leave(run)
        return stored

    def fail(self, run: ChunkRun, fault: Exception) -> None:
        """After a fault of this program: what has an outcome is stored, and the rest runs again.

        The run counts as an attempt of the images that the fault cut off, or whose rows cannot be
        stored; after their last attempt they get the code `internal`.
        """
        log.error("%s: a fault of this program", run.claim, exc_info=fault)
        run.fail(fault)
        try:
            self._salvage(run, fault)
        except FencedOff as reason:
            log.warning("%s", reason)
        except Exception:
            log.exception("%s: nothing of it can be stored; only its attempt is", run.claim)
            self._put_back(run.claim.message, fault, attempt=run.claim.attempt)
        finally:
            self._leave(run)

    def fail_claim(self, message: ChunkMessage, fault: Exception) -> None:
        """After a fault that rolled a claim back, or ended it before its run began."""
        log.error("%s: a fault of this program", message, exc_info=fault)
        self._put_back(message, fault)

    def put_back_orphans(self) -> None:
        """Chunks that are this worker's in SQL and have no run here go back to be run again.

        A fault loses a run where the database refused to have it put back, for a lasting reason.
        """
        for orphan in self._store.orphans(self.held):
            log.error(
                "Chunk %d of job %d has lost its run in this worker; it is run again",
                orphan.chunk,
                orphan.job_number,
            )
            self._store.put_back(orphan, "its run was lost")

    def _put_back(self, message: ChunkMessage, fault: Exception, *, attempt: int = 1) -> None:
        alone = message.positions[0] if message.alone else None
        try:
            failed = self._store.put_back(
                message.fence, describe_fault(fault), attempt=attempt, alone=alone
            )
        except Exception:
            log.exception("%s: cannot be put back; the next heartbeat tries again", message)
            return
        if failed:
            log.error("%s: %d images fail as `internal`", message, failed)

    def _salvage(self, run: ChunkRun, fault: Exception) -> None:
        snapshot = run.snapshot()
        stored, refused = self._store_parts(run.claim, snapshot)
        ours = Failure("internal", type(fault).__name__)
        left = {
            position: outcome._replace(result=ours) if position in refused else outcome
            for position, outcome in snapshot.outcomes.items()
            if position not in stored
        }
        # Images whose rows cannot be stored are to blame, or else those that were cut off.
        to_blame = None if refused else snapshot.fault
        self._store_and_note(run.claim, replace(snapshot, outcomes=left, fault=to_blame))

    def _store_parts(self, claim: Claim, snapshot: Snapshot) -> tuple[set[int], set[int]]:
        """Stores what can be stored, found by halves.

        Returns:
            Positions that are in SQL now, and positions whose rows cannot be stored.
        """
        stored, refused = set[int](), set[int]()
        parts = [sorted(snapshot.outcomes)] if snapshot.outcomes else []
        while parts:
            part = parts.pop()
            rest = (snapshot.outcomes.keys() | snapshot.unsettled) - stored - set(part)
            outcomes = {position: snapshot.outcomes[position] for position in part}
            try:
                done = self._store_and_note(
                    claim, Snapshot(outcomes, frozenset(rest), closed=False)
                )
            except FencedOff:
                raise
            except Exception:  # noqa: BLE001  (whatever it is: one image, or the halves)
                half = len(part) // 2
                parts += [part[:half], part[half:]] if half else []
                refused.update([] if half else part)
            else:
                stored |= done.positions
        return stored, refused

    def _store_and_note(self, claim: Claim, snapshot: Snapshot) -> Stored:
        """
        Raises:
            FencedOff: the chunk is another run's by now; nothing is stored, or counted.
        """
        snapshot = blame(snapshot)
        began_at = time.monotonic()
        stored = self._store.store(claim, snapshot)
        store_s = time.monotonic() - began_at
        # What is tried again stays with its run, and counts when that is stored at last.
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
        ("deferred", ""): 0 if stored.loading else stored.deferred,
        **{("failed", code): images for code, images in stored.failed.items()},
        **{("retried", code): images for code, images in codes.items()},
    }
