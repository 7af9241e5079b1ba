"""The end of a run: one transaction stores the outcomes as rows and updates the chunk.

The task stores what has an outcome, and `Stragglers` stores the rest. A run that has lost its chunk
to another run stores nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from random import uniform
from typing import Final

from contract.chunks import run as moves
from contract.chunks.fence import Fence
from contract.chunks.later import Group
from contract.chunks.run import Left
from contract.database.waits import Database
from contract.failure import Failure
from contract.flow import LONGEST_DEFERRAL_S, SHORTEST_DEFERRAL_S
from contract.stages import stages_of
from worker.chunk.claim import Claim
from worker.chunk.outcome import Outcome, Provenance
from worker.chunk.retry_wait import retry_wait_s
from worker.chunk.rows import make_rows
from worker.chunk.run import ClassifierFault, Snapshot
from worker.metrics.stages import Stages, order
from worker.process.identity import Identity

# Neither a server's Retry-After nor our own backoff delays an image for longer.
LONGEST_DELAY_S: Final = 3600.0
# So that an error that occurs every time does not keep the machine busy.
SHORTEST_FAULT_DELAY_S: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The numbers of a transaction, for the task's summary."""

    positions: frozenset[int]
    classified: int
    failed: dict[str, int]
    """Images that failed for good, by error code."""
    retried: int
    """Images that will be tried again."""
    loading: int
    """Images that the run still waits for."""
    handed_back: int
    deferred: int
    """Images whose hosts had no room, and that run later."""
    stages: Stages = Stages()  # noqa: RUF009  (frozen)
    """Times and sizes. `worker.chunk.live_runs` fills them in."""


class Store:
    """Writes the worker's results to SQL. Safe for many threads."""

    def __init__(
        self, database: Database, identity: Identity, *, max_attempts: int, retry_backoff_s: float
    ) -> None:
        self._database = database
        self._identity = identity
        self._max_attempts = max_attempts
        self._retry_backoff_s = retry_backoff_s

    def store(self, claim: Claim, snapshot: Snapshot) -> Stored:
        """Stores the final outcomes, once, and leaves the other images in the chunk.

        The run counts as an attempt only of the images that it has tried: not of those that it
        hands back, defers, or lost when the device failed.

        Raises:
            FencedOff: another run has the chunk now. Nothing is stored.
        """
        failures = {
            position: result
            for position, (result, _, _) in snapshot.outcomes.items()
            if isinstance(result, Failure)
        }
        may_retry = claim.attempt < self._max_attempts
        retried = {
            position: failure
            for position, failure in failures.items()
            if may_retry and failure.retried
        }
        final = snapshot.outcomes
        if retried:
            final = {place: one for place, one in final.items() if place not in retried}
        unsettled = snapshot.unsettled
        failed = Counter(
            failure.code for position, failure in failures.items() if position not in retried
        )
        rows = make_rows(claim, self._identity, final)
        left = self._left(claim, snapshot, unsettled, retried)
        first = claim.first_position
        before = {position - first for position in snapshot.outcomes}
        before.update(map(claim.offset, unsettled | claim.others))
        before.update(offset for group in claim.groups for offset in group.offsets)
        fault = _fault(snapshot, failures.values())
        stages = _times(final.values())
        self._database.execute(
            lambda connection: moves.store(
                connection,
                claim.fence,
                self._identity.worker,
                before=before,
                left=left,
                rows=rows,
                errors=failed,
                fault=fault,
                stages=stages,
            )
        )
        in_hand = len(unsettled - snapshot.deferred)
        return Stored(
            positions=frozenset(final),
            classified=len(rows) - failed.total(),
            failed=dict(failed),
            retried=len(retried),
            loading=0 if snapshot.closed else in_hand,
            handed_back=in_hand if snapshot.closed else 0,
            deferred=len(snapshot.deferred),
        )

    def put_back(
        self, fence: Fence, fault: str, *, attempt: int = 1, alone: int | None = None
    ) -> int:
        """Puts a chunk back after an error in this program. The run counts as an attempt.

        Args:
            fence: the run's fence.
            fault: the error's text, which `status` shows.
            attempt: the number of the run, from which the delay follows.
            alone: the position of the only image that ran, if there is one.

        Returns:
            The number of images that have failed as `internal`, as this was their last attempt.
        """
        ended = moves.Fault(
            text=fault,
            max_attempts=self._max_attempts,
            due_in_s=self._fault_delay_s(attempt),
            alone=alone,
        )
        return self._database.transact(
            lambda connection: moves.put_back(connection, fence, self._identity.worker, ended)
        )

    def orphans(self, held: Callable[[], set[Fence]]) -> set[Fence]:
        """Chunks that this worker runs according to SQL, but that it does not hold.

        Calls `held` before SQL, in case a chunk is stored meanwhile, and again after it, in case
        one is claimed meanwhile.
        """
        held_before = held()
        in_sql = self._database.read(
            lambda connection: moves.held_by(connection, self._identity.worker)
        )
        return in_sql - held_before - held() if in_sql else set()

    def _left(
        self,
        claim: Claim,
        snapshot: Snapshot,
        unsettled: frozenset[int],
        retried: dict[int, Failure],
    ) -> Left:
        others = tuple(sorted(map(claim.offset, claim.others)))
        now = claim.now
        waiting = [*claim.groups, Group(now, max(0, claim.attempt - 1), others)]
        offsets = frozenset(map(claim.offset, unsettled))
        return Left(
            attempt=claim.attempt,
            retried=self._waits_s(claim, retried),
            untried=offsets if snapshot.closed else (),
            untried_in_s=self._untried_in_s(claim, snapshot),
            loading=() if snapshot.closed else offsets,
            groups=[group for group in waiting if group.offsets],
            now=now,
        )

    def _untried_in_s(self, claim: Claim, snapshot: Snapshot) -> float:
        if snapshot.deferred:
            return uniform(SHORTEST_DEFERRAL_S, LONGEST_DEFERRAL_S)
        return 0.0 if snapshot.fault is None else self._fault_delay_s(claim.attempt)

    def _waits_s(self, claim: Claim, retried: dict[int, Failure]) -> dict[int, float]:
        """Waits by offset. Images of one run share their backoff, so that they run together."""
        backoff_s = self._backoff_s(claim.attempt)
        return {
            claim.offset(position): max(
                backoff_s,
                SHORTEST_FAULT_DELAY_S if failure.code == "internal" else 0.0,
                min(failure.retry_after_s or 0.0, LONGEST_DELAY_S),
            )
            for position, failure in retried.items()
        }

    def _fault_delay_s(self, attempt: int) -> float:
        return max(SHORTEST_FAULT_DELAY_S, self._backoff_s(attempt))

    def _backoff_s(self, attempt: int) -> float:
        return retry_wait_s(attempt, mean_s=self._retry_backoff_s, longest_s=LONGEST_DELAY_S)


def blame(snapshot: Snapshot) -> Snapshot:
    """Gives all images that an error in this program interrupted the outcome `internal`.

    A failure of the device changes nothing, because it is not due to an image.
    """
    if snapshot.fault is None or isinstance(snapshot.fault, ClassifierFault):
        return snapshot
    failure = Failure("internal", type(snapshot.fault).__name__)
    cut_off = snapshot.unsettled - snapshot.deferred
    blamed = dict.fromkeys(cut_off, Outcome(failure, Provenance()))
    return replace(
        snapshot, outcomes=snapshot.outcomes | blamed, unsettled=snapshot.unsettled - cut_off
    )


def describe_fault(fault: BaseException) -> str:
    """The error's class and first line, as `status` and `doctor` show them."""
    lines = str(fault).splitlines()
    return f"{type(fault).__name__}: {lines[0]}" if lines else type(fault).__name__


def _times(outcomes: Collection[Outcome]) -> dict[str, list[float]]:
    """The time of the images at each stage, in the form of a job's tallies."""
    ordered = order(outcomes)
    return stages_of({name: values for name, values in ordered.items() if name.endswith("_s")})


def _fault(snapshot: Snapshot, failures: Iterable[Failure]) -> str | None:
    """The text of an error in this program that occurred in the run, if there was one."""
    if snapshot.fault is not None:
        return describe_fault(snapshot.fault)
    for failure in failures:
        if failure.code == "internal":
            return failure.detail or "internal"
    return None
