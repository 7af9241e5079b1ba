"""Outcomes as rows of `results`: tuples in the order of `contract.chunks.results.COLUMNS`."""

from __future__ import annotations

from collections.abc import Mapping

from contract.chunks.results import NO_ANSWER, NO_ERROR, ResultRow, plain
from contract.database.tables import TOP
from contract.failure import Failure
from worker.chunk.claim import Claim
from worker.chunk.outcome import Outcome, Prediction
from worker.process.identity import Identity


def make_rows(claim: Claim, identity: Identity, outcomes: Mapping[int, Outcome]) -> list[ResultRow]:
    """By position; None where there is nothing to say."""
    return [_row(claim, identity, position, outcome) for position, outcome in outcomes.items()]


def _row(claim: Claim, identity: Identity, position: int, outcome: Outcome) -> ResultRow:
    image, came, result = claim.images[position], outcome.provenance, outcome.result
    error, answer = NO_ERROR, NO_ANSWER
    if isinstance(result, Failure):
        error = (result.code, plain(result.detail))
    else:
        answer = _answer(identity, result)
    return (
        claim.message.job_number,
        position,
        image.uri,
        image.ref,
        claim.attempt,
        identity.worker,
        *error,
        plain(came.final_uri),
        came.bytes,
        came.sha256,
        plain(came.format),
        came.width,
        came.height,
        *answer,
    )


def _answer(identity: Identity, prediction: Prediction) -> ResultRow:
    missing = (None,) * (TOP - len(prediction.class_ids))  # of a network of few classes
    return (
        identity.model_number,
        identity.precision,
        identity.orientation,
        *prediction.class_ids,
        *missing,
        *prediction.scores,
        *missing,
    )
