"""The end of a run: outcomes become rows, and the chunk goes on in its life, in one transaction.

The task calls this with what is finished, and the keeper of stragglers with the rest. A run that
has lost its chunk to another one stores nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
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
from worker.chunk.claim import Claim
from worker.chunk.outcome import Outcome, Provenance
from worker.chunk.retry_wait import retry_wait_s
from worker.chunk.rows import make_rows
from worker.chunk.run import ClassifierFault, Snapshot
from worker.metrics.stages import Stages
from worker.process.identity import Identity

# Neither a server's Retry-After nor our own backoff puts an image off for longer.
LONGEST_DELAY_S: Final = 3600.0
# A fault that comes every time is not to keep the machine busy.
SHORTEST_FAULT_DELAY_S: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a transaction has stored, for the task's summary."""

    positions: frozenset[int]
    classified: int
    failed: dict[str, int]
    """Images by error code, for good."""
    retried: int
    """Images that are tried again later, so far."""
    loading: int
    """Images that the run still waits for."""
    handed_back: int
    deferred: int
    """Images that their hosts had no room for, and that come again later."""
    stages: Stages = Stages()  # noqa: RUF009  (frozen)
    """What was measured, as `worker.chunk.live_runs` notes it."""


class Store:
    """The worker's results on their way to SQL. Safe for many threads."""

    def __init__(
        self, database: Database, identity: Identity, *, max_attempts: int, retry_backoff_s: float
    ) -> None:
        self._database = database
        self._identity = identity
        self._max_attempts = max_attempts
        self._retry_backoff_s = retry_backoff_s

    def store(self, claim: Claim, snapshot: Snapshot) -> Stored:
        """Stores what is final, once, and leaves the chunk with what is not.

        The run counts as an attempt of the images that it has tried, and of no others: not of those
        that it hands back, defers, or lost to a fault of the device.

        Raises:
            FencedOff: the chunk is another run's by now; nothing is stored.
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
        """After a fault of this program: the chunk runs again later, and the run counts.

        Args:
            fence: the run's.
            fault: what `status` shows.
            attempt: which run it was, for the time until the next one.
            alone: the position of the only image that ran, where it is known.

        Returns:
            How many images have failed as `internal`, since this was their last attempt.
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
        """Chunks that SQL says this worker runs, and that are not held.

        What is held is asked before SQL, for a chunk that is stored meanwhile, and after it, for
        one that is claimed meanwhile.
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
        """By offset. Images of one run share their backoff, so that they go out together."""
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
    """A fault of this program is the outcome of every image that it cut off.

    A fault of the device is no image's, and changes nothing.
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
    """As `status` and `doctor` show it: the class and the first line."""
    lines = str(fault).splitlines()
    return f"{type(fault).__name__}: {lines[0]}" if lines else type(fault).__name__


def _fault(snapshot: Snapshot, failures: Iterable[Failure]) -> str | None:
    """The fault that the run has met, if it met one."""
    if snapshot.fault is not None:
        return describe_fault(snapshot.fault)
    for failure in failures:
        if failure.code == "internal":
            return failure.detail or "internal"
    return None
