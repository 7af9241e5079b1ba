"""The end of a run: outcomes become rows, and the chunk goes on in its life, in one transaction.

Called by the task with what is settled, and by the straggler keeper with the rest. The chunk
is changed first and fenced: whoever has lost it to another run stores nothing.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from random import uniform
from typing import Any, Final

from sqlalchemy import Connection, Float, bindparam, insert, select, update

from contract import remaining
from contract.database.clock import db_now
from contract.database.tables import chunks, tallies
from contract.database.waits import Database
from contract.failure import Failure
from worker.chunk.claim import IN_GENERATION, Claim, generation_of
from worker.chunk.rows import insert_rows, make_rows
from worker.chunk.run import Snapshot
from worker.metrics.stages import Stages
from worker.process.identity import Identity

log = logging.getLogger(__name__)

# Neither a server's Retry-After nor our own backoff puts an image off for longer.
LONGEST_DELAY_S: Final = 3600.0
# A fault of our own that comes every time is not to keep the machine busy.
SHORTEST_FAULT_DELAY_S: Final = 2.0
# What its host had no room for comes again when that has got on; scattered, so that it does not
# come all at once.
SHORTEST_DEFERRAL_S: Final = 20.0
LONGEST_DEFERRAL_S: Final = 40.0
# Built once, since to build a statement costs more than to execute it. The columns
# that change are given when it is executed.
_CHANGE: Final = update(chunks).where(
    *IN_GENERATION, chunks.c.state == "running", chunks.c.worker == bindparam("the_worker")
)
_DUE: Final = {"due_at": db_now(bindparam("due_in_s", type_=Float()))}
_PUT_BACK: Final = _CHANGE.values(_DUE)
_SETTLE: Final = _CHANGE.where(chunks.c.remaining == bindparam("the_remaining"))
_SETTLE_AND_DUE: Final = _SETTLE.values(_DUE)
_STAND: Final = select(chunks.c.state, chunks.c.remaining, chunks.c.worker).where(*IN_GENERATION)
_TALLY: Final = insert(tallies).inline()  # its number is of no use


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a transaction has stored, for the task's summary."""

    positions: frozenset[int]
    classified: int
    failed: dict[str, int]
    """Images by error code, for good."""
    retried: int
    """Images that failed for a passing reason, so far."""
    loading: int
    """Images that the run still waits for."""
    handed_back: int
    deferred: int
    """Images that their hosts had no room for, and that come again later."""
    stages: Stages = Stages()  # noqa: RUF009  (frozen)
    """What was measured, as `worker.chunk.live_runs` notes it."""


class FencedOff(Exception):
    """The chunk is another run's by now."""


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

        A chunk has one attempt for all its images: one that is handed back gets it back, for
        the untouched ones' sake, and is due at once; with deferred images see `_deferred`.

        Raises:
            FencedOff: the chunk is another run's by now; nothing is stored.
        """
        retries = {
            position: outcome.result
            for position, outcome in snapshot.outcomes.items()
            if isinstance(outcome.result, Failure)
            and outcome.result.retried
            and claim.attempt < self._max_attempts
        }
        final = {
            position: outcome
            for position, outcome in snapshot.outcomes.items()
            if position not in retries
        }
        values = self._next_of_chunk(claim, snapshot, retries)
        rows = make_rows(claim, self._identity, final)
        failed = Counter(
            outcome.result.code for outcome in final.values() if isinstance(outcome.result, Failure)
        )
        classified = len(rows) - failed.total()
        tally = {
            "job_number": claim.message.job_number,
            "classified": classified,
            "failed": failed.total(),
            "errors": dict(failed),
        }

        def work(connection: Connection) -> None:
            if self._change_chunk(connection, claim, snapshot, values) and rows:
                insert_rows(connection, rows)
                connection.execute(_TALLY, tally)

        self._database.transact(work)
        in_hand = len(snapshot.unsettled - snapshot.deferred)
        return Stored(
            positions=frozenset(final),
            classified=classified,
            failed=dict(failed),
            retried=len(retries),
            loading=0 if snapshot.closed else in_hand,
            handed_back=in_hand if snapshot.closed else 0,
            deferred=len(snapshot.deferred),
        )

    def put_back(self, claim: Claim) -> None:
        """After a fault of our own: the chunk is run again later; the attempt stays counted."""
        delay_s = max(SHORTEST_FAULT_DELAY_S, self._backoff_s(claim))
        values = {"state": "pending", "worker": None, "due_in_s": delay_s}
        self._database.transact(
            lambda connection: connection.execute(_PUT_BACK, self._fence(claim) | values)
        )

    def _next_of_chunk(
        self, claim: Claim, snapshot: Snapshot, retries: dict[int, Failure]
    ) -> dict[str, Any]:
        """The chunk's columns after this transaction; `due_in_s` only where it is due again."""
        left = {*retries, *snapshot.unsettled, *claim.others}
        values = {
            "remaining": _remaining(claim, left),
            "remaining_images": len(left),
            "state": "pending" if left else "done",
            "worker": None,
            "attempt": claim.attempt,
        }
        if snapshot.unsettled and not snapshot.closed:
            return values | {"state": "running", "worker": self._identity.worker}
        if snapshot.deferred:
            return values | self._deferred(claim, snapshot, retries)
        if snapshot.unsettled:
            return values | {"attempt": claim.attempt - 1, "due_in_s": 0.0}
        if retries:
            return values | {"due_in_s": self._delay_s(claim, retries.values())}
        if claim.others:  # the next one alone has attempts of its own
            return values | {"attempt": 0, "due_in_s": 0.0}
        return values

    def _deferred(
        self, claim: Claim, snapshot: Snapshot, retries: dict[int, Failure]
    ) -> dict[str, Any]:
        """Later, and so that it ends: of a host that is down, images may be deferred each time.

        So a run in which images failed for a passing reason stays counted, for those that were
        never tried as well. A last attempt has settled all that it tried: for the rest it
        begins anew. A run that tried nothing is not counted.
        """
        delay_s = uniform(SHORTEST_DEFERRAL_S, LONGEST_DEFERRAL_S)
        if retries:
            return {"due_in_s": max(delay_s, self._delay_s(claim, retries.values()))}
        settled = len(claim.images) > len(snapshot.unsettled)
        begins_anew = settled and claim.attempt >= self._max_attempts
        return {"attempt": 0 if begins_anew else claim.attempt - 1, "due_in_s": delay_s}

    def _change_chunk(
        self, connection: Connection, claim: Claim, snapshot: Snapshot, values: dict[str, Any]
    ) -> bool:
        """False if an earlier try of ours was committed although the answer was lost.

        Raises:
            FencedOff: the chunk is another run's by now.
        """
        before = _remaining(claim, {*snapshot.outcomes, *snapshot.unsettled, *claim.others})
        fence = self._fence(claim) | {"the_remaining": before}
        settle = _SETTLE_AND_DUE if "due_in_s" in values else _SETTLE
        changed = connection.execute(settle, fence | values)
        if changed.rowcount == 1:
            return True
        found = connection.execute(_STAND, generation_of(claim.message)).one_or_none()
        if found == (values["state"], values["remaining"], values["worker"]):
            return False
        raise FencedOff(f"{claim}: another run has this chunk by now")

    def _fence(self, claim: Claim) -> dict[str, Any]:
        """What `_CHANGE` is asked with."""
        return generation_of(claim.message) | {"the_worker": self._identity.worker}

    def _delay_s(self, claim: Claim, failures: Iterable[Failure]) -> float:
        asked_s = max((failure.retry_after_s or 0.0 for failure in failures), default=0.0)
        return max(self._backoff_s(claim), min(asked_s, LONGEST_DELAY_S))

    def _backoff_s(self, claim: Claim) -> float:
        """Exponential with full jitter, so that a site's images do not come back together."""
        mean_s = self._retry_backoff_s * 2.0 ** (claim.attempt - 1)
        return uniform(0.0, min(2.0 * mean_s, LONGEST_DELAY_S))


def _remaining(claim: Claim, positions: Iterable[int]) -> bytes:
    return remaining.encode(position - claim.first_position for position in positions)
