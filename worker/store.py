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

from sqlalchemy import Connection, insert, select, update

from contract import remaining
from contract.clock import db_now
from contract.error_codes import Failure
from contract.tables import TOP, chunks, results, tallies
from worker.chunk_run import Snapshot
from worker.claim import Claim
from worker.database import Database
from worker.metrics import Stages
from worker.outcome import Outcome, Prediction
from worker.registration import Identity

log = logging.getLogger(__name__)

# Neither a server's Retry-After nor our own backoff puts an image off for longer.
LONGEST_DELAY_S: Final = 3600.0
# A fault of our own that comes every time is not to keep the machine busy.
SHORTEST_FAULT_DELAY_S: Final = 2.0


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
    stages: Stages = Stages()  # noqa: RUF009  (frozen)
    """What was measured, as `worker.runs` notes it."""


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
        the untouched ones' sake, and is due at once.

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
        rows = [self._row(claim, position, outcome) for position, outcome in final.items()]
        failed = Counter(row["error_code"] for row in rows if row["error_code"] is not None)
        tally = {
            "job_number": claim.message.job_number,
            "classified": len(rows) - failed.total(),
            "failed": failed.total(),
            "errors": dict(failed),
        }

        def work(connection: Connection) -> None:
            if self._change_chunk(connection, claim, snapshot, values) and rows:
                connection.execute(insert(results).values(settled_at=db_now()), rows)
                connection.execute(insert(tallies), [tally])

        self._database.transact(work)
        return Stored(
            positions=frozenset(final),
            classified=len(rows) - failed.total(),
            failed=dict(failed),
            retried=len(retries),
            loading=0 if snapshot.closed else len(snapshot.unsettled),
            handed_back=len(snapshot.unsettled) if snapshot.closed else 0,
        )

    def put_back(self, claim: Claim) -> None:
        """After a fault of our own: the chunk is run again later; the attempt stays counted."""
        delay_s = max(SHORTEST_FAULT_DELAY_S, self._backoff_s(claim))
        self._database.transact(
            lambda connection: connection.execute(
                update(chunks)
                .where(*self._fence(claim))
                .values(state="pending", worker=None, due_at=db_now(delay_s))
            )
        )

    def _next_of_chunk(
        self, claim: Claim, snapshot: Snapshot, retries: dict[int, Failure]
    ) -> dict[str, Any]:
        """The chunk's columns after this transaction."""
        left = {*retries, *snapshot.unsettled}
        values = {
            "remaining": _remaining(claim, left),
            "remaining_images": len(left),
            "state": "pending" if left else "done",
            "worker": None,
            "attempt": claim.attempt,
        }
        if snapshot.unsettled and not snapshot.closed:
            return values | {"state": "running", "worker": self._identity.worker}
        if snapshot.unsettled:
            return values | {"attempt": claim.attempt - 1, "due_at": db_now()}
        if retries:
            return values | {"due_at": db_now(self._delay_s(claim, retries.values()))}
        return values

    def _change_chunk(
        self, connection: Connection, claim: Claim, snapshot: Snapshot, values: dict[str, Any]
    ) -> bool:
        """False if an earlier try of ours was committed although the answer was lost.

        Raises:
            FencedOff: the chunk is another run's by now.
        """
        before = _remaining(claim, {*snapshot.outcomes, *snapshot.unsettled})
        changed = connection.execute(
            update(chunks).where(*self._fence(claim), chunks.c.remaining == before).values(**values)
        )
        if changed.rowcount == 1:
            return True
        found = connection.execute(
            select(chunks.c.state, chunks.c.remaining, chunks.c.worker).where(*_chunk(claim))
        ).one_or_none()
        if found == (values["state"], values["remaining"], values["worker"]):
            return False
        raise FencedOff(f"{claim}: another run has this chunk by now")

    def _fence(self, claim: Claim) -> tuple[Any, ...]:
        return (
            *_chunk(claim),
            chunks.c.state == "running",
            chunks.c.worker == self._identity.worker,
        )

    def _delay_s(self, claim: Claim, failures: Iterable[Failure]) -> float:
        asked_s = max((failure.retry_after_s or 0.0 for failure in failures), default=0.0)
        return max(self._backoff_s(claim), min(asked_s, LONGEST_DELAY_S))

    def _backoff_s(self, claim: Claim) -> float:
        """Exponential with full jitter, so that a site's images do not come back together."""
        mean_s = self._retry_backoff_s * 2.0 ** (claim.attempt - 1)
        return uniform(0.0, min(2.0 * mean_s, LONGEST_DELAY_S))

    def _row(self, claim: Claim, position: int, outcome: Outcome) -> dict[str, Any]:
        """All columns of `results` but the time; None where there is nothing to say."""
        image, came = claim.images[position], outcome.provenance
        return {
            "job_number": claim.message.job_number,
            "position": position,
            "uri": image.uri,
            "ref": image.ref,
            "attempts": claim.attempt,
            "worker": self._identity.worker,
            "final_uri": _text(came.final_uri),
            "bytes": came.bytes,
            "sha256": came.sha256,
            "format": _text(came.format),
            "width": came.width,
            "height": came.height,
            **self._answer(outcome.result),
        }

    def _answer(self, result: Prediction | Failure) -> dict[str, Any]:
        answer = dict.fromkeys(_ANSWER_COLUMNS)
        if isinstance(result, Failure):
            return answer | {"error_code": result.code, "error_detail": _text(result.detail)}
        answer |= {"model_number": self._identity.model_number}
        answer |= {"precision": self._identity.precision}
        for rank, (class_id, score) in enumerate(
            zip(result.class_ids, result.scores, strict=True), start=1
        ):
            answer |= {f"class_{rank}": class_id, f"score_{rank}": score}
        return answer


_ANSWER_COLUMNS: Final = (
    "error_code",
    "error_detail",
    "model_number",
    "precision",
    *(f"{column}_{rank}" for column in ("class", "score") for rank in range(1, TOP + 1)),
)


def _chunk(claim: Claim) -> tuple[Any, ...]:
    """The chunk in its generation."""
    return (
        chunks.c.job_number == claim.message.job_number,
        chunks.c.chunk == claim.message.chunk,
        chunks.c.generation == claim.message.generation,
    )


def _remaining(claim: Claim, positions: Iterable[int]) -> bytes:
    return remaining.encode(position - claim.first_position for position in positions)


def _text(value: str | None) -> str | None:
    """Strangers' text as both databases take it: no NUL, no half of a surrogate pair."""
    if value is None:
        return None
    return value.replace("\x00", "\ufffd").encode(errors="replace").decode()
