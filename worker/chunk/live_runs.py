"""The runs of a worker, each from its claim until its last image is stored.

The task enters a run and stores the images that have an outcome. `Stragglers` stores the rest. When
the worker stops, every run drains. This module also handles errors in this program that hit a run.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from contract.broker.message import ChunkMessage
from contract.chunks.fence import Fence
from contract.chunks.run import FencedOff
from contract.failure import Failure
from contract.flow import InHand
from worker.chunk.gate import Gate
from worker.chunk.outcome import Outcome
from worker.chunk.run import ChunkRun, ClassifierFault, Snapshot
from worker.chunk.store import Store, Stored, blame, describe_fault
from worker.metrics.stages import DEFERRED, Metrics

log = logging.getLogger(__name__)

# The weight of the newest chunk in the moving average of images per chunk.
NEWEST_WEIGHT: Final = 0.1


class Runs:
    """Owns the set of live runs, and the event that the worker is stopping."""

    def __init__(
        self,
        store: Store,
        *,
        chunk_images: int,
        metrics: Metrics | None = None,
        when_stored: Callable[[ChunkRun, frozenset[int]], object] = lambda *_: None,
        when_left: Callable[[ChunkRun], object] = lambda _: None,
    ) -> None:
        """
        Args:
            store: stores the results.
            chunk_images: the expected images per chunk, until some chunks have arrived.
            metrics: the worker's metrics.
            when_stored: called with a run and the positions whose rows are in SQL.
            when_left: called with a run of which nothing more will be stored.
        """
        self.stopping = threading.Event()
        self.gate = Gate()
        """The task enters it before the run; both leave together."""
        self.images_per_chunk = float(chunk_images)
        self._store = store
        self._metrics = metrics or Metrics()
        self._when_stored = when_stored
        self._when_left = when_left
        self._lock = threading.Lock()
        self._live: set[ChunkRun] = set()
        self._outlived: set[ChunkRun] = set()
        """Live runs whose tasks have ended."""
        self._claiming: Counter[Fence] = Counter()

    def __len__(self) -> int:
        return len(self._live)

    def in_flight(self) -> dict[str, int]:
        """The number of images that are claimed but not stored, by stage."""
        with self._lock:
            live = list(self._live)
        total = Counter(dict.fromkeys(("waiting", "loading", "classifying", "settled"), 0))
        for run in live:
            total.update(run.in_flight())
        return total

    def in_hand(self) -> InHand:
        """The work that this worker still has, which limits how much more it takes."""
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
        """Begins no more images, and hands back those that are not in the classifier."""
        self.stopping.set()
        self.gate.open()
        with self._lock:
            live = list(self._live)
        for run in live:
            run.drain()

    def outlive_task(self, run: ChunkRun) -> None:
        """Notes that the run's task has ended before the run."""
        with self._lock:
            self._outlived.add(run)

    @contextmanager
    def claiming(self, fence: Fence) -> Iterator[None]:
        """Inside this block, SQL may already give this worker the chunk while it has no run yet."""
        with self._lock:
            self._claiming[fence] += 1
        try:
            yield
        finally:
            with self._lock:
                self._claiming[fence] -= 1
                self._claiming = +self._claiming  # removes the zeros

    def held(self) -> set[Fence]:
        """Chunks that this worker runs or is claiming."""
        with self._lock:
            return {*self._claiming, *(run.claim.fence for run in self._live)}

    def store(self, run: ChunkRun) -> Stored | None:
        """Stores the images that have an outcome. Returns None if another run has the chunk now.

        Raises:
            Exception: an error in this program. Nothing is stored; the caller must call `fail`.
        """
        snapshot = run.snapshot()
        if isinstance(snapshot.fault, ClassifierFault):
            log.warning("%s: %s; the interrupted images run again later", run.claim, snapshot.fault)
        try:
            stored = self._store_and_note(run, snapshot)
        except FencedOff as reason:
            log.warning("%s; this run's outcomes are dropped", reason)
            self._leave(run)
            return None
        run.forget(stored.positions)
        if not stored.loading:
            self._leave(run)
        return stored

    def fail(self, run: ChunkRun, fault: Exception) -> None:
        """After an error in this program: stores the outcomes, and the other images run again.

        The run counts as an attempt of the images that the error interrupted, or whose rows cannot
        be stored. After their last attempt they get the code `internal`.
        """
        log.error("%s: an error in this program", run.claim, exc_info=fault)
        run.fail(fault)
        try:
            self._salvage(run, fault)
        except FencedOff as reason:
            log.warning("%s", reason)
        except Exception:
            log.exception("%s: no outcome can be stored, only the attempt", run.claim)
            self._put_back(run.claim.message, fault, attempt=run.claim.attempt)
        finally:
            self._leave(run)

    def fail_claim(self, message: ChunkMessage, fault: Exception) -> None:
        """After an error that rolled back a claim, or ended it before its run began."""
        log.error("%s: an error in this program", message, exc_info=fault)
        self._put_back(message, fault)

    def put_back_orphans(self) -> None:
        """Puts back chunks that belong to this worker in SQL but have no run here.

        This happens after an error in this program, if the database refused to put the chunk back.
        """
        for orphan in self._store.orphans(self.held):
            log.error(
                "Chunk %d of job %d has lost its run in this worker; it will run again",
                orphan.chunk,
                orphan.job_number,
                extra={"chunk": orphan.chunk, "generation": orphan.generation},
            )
            self._store.put_back(orphan, "its run was lost")

    def _put_back(self, message: ChunkMessage, fault: Exception, *, attempt: int = 1) -> None:
        alone = message.positions[0] if message.alone else None
        try:
            failed = self._store.put_back(
                message.fence, describe_fault(fault), attempt=attempt, alone=alone
            )
        except Exception:
            log.exception("%s: cannot be put back; retrying at the next heartbeat", message)
            return
        if failed:
            log.error("%s: %d images failed with the code `internal`", message, failed)

    def _salvage(self, run: ChunkRun, fault: Exception) -> None:
        snapshot = run.snapshot()
        stored, refused = self._store_parts(run, snapshot)
        ours = Failure("internal", type(fault).__name__)
        left = {
            position: outcome._replace(result=ours) if position in refused else outcome
            for position, outcome in snapshot.outcomes.items()
            if position not in stored
        }
        # Images whose rows cannot be stored are to blame. If there are none, the interrupted ones.
        to_blame = None if refused else snapshot.fault
        self._store_and_note(run, replace(snapshot, outcomes=left, fault=to_blame))

    def _store_parts(self, run: ChunkRun, snapshot: Snapshot) -> tuple[set[int], set[int]]:
        """Stores all outcomes that can be stored. Finds the others by halving.

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
                done = self._store_and_note(run, Snapshot(outcomes, frozenset(rest), closed=False))
            except FencedOff:
                raise
            except Exception:  # noqa: BLE001  (any error: try the halves, or blame the one image)
                half = len(part) // 2
                parts += [part[:half], part[half:]] if half else []
                refused.update([] if half else part)
            else:
                stored |= done.positions
        return stored, refused

    def _store_and_note(self, run: ChunkRun, snapshot: Snapshot) -> Stored:
        """Stores a snapshot, and counts it in the metrics.

        Raises:
            FencedOff: another run has the chunk now. Nothing is stored or counted.
        """
        snapshot = blame(snapshot)
        began_at = time.monotonic()
        stored = self._store.store(run.claim, snapshot)
        store_s = time.monotonic() - began_at
        self._when_stored(run, stored.positions)
        # While the run continues, images to retry stay in it, and count when its end is stored.
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
        self._when_left(run)


def _counts(stored: Stored, retried: Iterable[Outcome]) -> dict[tuple[str, ...], int]:
    """The number of images by outcome and code."""
    codes = Counter(one.result.code for one in retried if isinstance(one.result, Failure))
    return {
        ("classified", ""): stored.classified,
        ("handed_back", ""): stored.handed_back,
        DEFERRED: 0 if stored.loading else stored.deferred,
        **{("failed", code): images for code, images in stored.failed.items()},
        **{("retried", code): images for code, images in codes.items()},
    }
