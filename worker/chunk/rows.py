"""Turns outcomes into rows of `results`, in the order of `contract.chunks.results.COLUMNS`."""

from __future__ import annotations

from collections.abc import Mapping

from contract.chunks.results import NO_ANSWER, NO_ERROR, ResultRow, plain
from contract.database.tables import TOP
from contract.failure import Failure
from worker.chunk.claim import Claim
from worker.chunk.outcome import Outcome
from worker.process.identity import Identity


def make_rows(claim: Claim, identity: Identity, outcomes: Mapping[int, Outcome]) -> list[ResultRow]:
    """Returns a row for each outcome. Values that do not apply are None."""
    job, images = claim.message.job_number, claim.images
    run = (claim.attempt, identity.worker)
    model = (identity.model_number, identity.precision, identity.orientation)
    return [
        (job, position, *images[position], *run, *_found(outcome, model))
        for position, outcome in outcomes.items()
    ]


def _found(outcome: Outcome, model: ResultRow) -> ResultRow:
    """The columns from the error code to the last."""
    result, (final_uri, size, sha256, image_format, width, height), _ = outcome
    came = (plain(final_uri), size, sha256, plain(image_format), width, height)
    if isinstance(result, Failure):
        return (result.code, plain(result.detail), *came, *NO_ANSWER)
    class_ids, scores = result
    missing = (None,) * (TOP - len(class_ids))  # if the network has fewer classes
    return (*NO_ERROR, *came, *model, *class_ids, *missing, *scores, *missing)
