"""Which images of a job an export writes: the user's conditions, checked, as SQL."""

from __future__ import annotations

import difflib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, false, or_, select

from contract.database.tables import labels, models, results
from contract.errors import UsageError
from producer.jobs.job import Job
from producer.jobs.retry import check_codes

_SHOWN_LABELS = 3


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Conditions on images. Without any, all finished images match.

    Raises:
        UsageError: a value is out of range, an error code does not exist, or no image can match.
    """

    only: str | None = None
    """"classified" or "failed"."""
    labels: tuple[str, ...] = ()
    """Of the top class; any of these."""
    min_score: float | None = None
    """Of the top class, 0 to 1."""
    errors: tuple[str, ...] = ()
    after: int | None = None
    """Only later positions than this."""

    def __post_init__(self) -> None:
        if self.min_score is not None and not 0 <= self.min_score <= 1:
            meant = self.min_score / 100
            hint = f" Did you mean {meant:g}?" if 1 < meant * 100 <= 100 else ""  # noqa: PLR2004
            raise UsageError(f"--min-score must be from 0 to 1, got {self.min_score:g}.{hint}")
        if self.after is not None and self.after < 0:
            raise UsageError(
                f"--after must be the position of an image, 0 or more, got {self.after}."
            )
        check_codes(self.errors)
        self._check_that_some_fit()

    def _check_that_some_fit(self) -> None:
        of_classified = [
            option
            for option, is_given in (
                ("`--only classified`", self.only == "classified"),
                ("`--label`", bool(self.labels)),
                ("`--min-score`", self.min_score is not None),
            )
            if is_given
        ]
        of_failed = [
            option
            for option, is_given in (
                ("`--only failed`", self.only == "failed"),
                ("`--error`", bool(self.errors)),
            )
            if is_given
        ]
        if of_classified and of_failed:
            raise UsageError(
                f"{of_classified[0]} keeps classified images and {of_failed[0]} failed ones: no "
                "image is both. Leave one of them out."
            )

    @property
    def is_narrow(self) -> bool:
        """Whether there is any condition other than `after`."""
        return bool(self.only or self.labels or self.errors or self.min_score is not None)

    @property
    def start(self) -> int:
        """The first position."""
        return 0 if self.after is None else self.after + 1

    def conditions(self, connection: Connection, job: Job) -> list[ColumnElement[bool]]:
        """The conditions in SQL.

        Raises:
            UsageError: the job's model has no class with this label.
        """
        found: list[ColumnElement[bool]] = []
        if self.only == "classified":
            found.append(results.c.error_code.is_(None))
        if self.only == "failed":
            found.append(results.c.error_code.is_not(None))
        if self.errors:
            found.append(results.c.error_code.in_(self.errors))
        if self.min_score is not None:
            found.append(results.c.score_1 >= as_stored(self.min_score))
        if self.labels:
            found.append(_has_label(connection, job, self.labels))
        return found


def as_stored(score: float) -> float:
    """The score as a float32, as it is stored. 0.7, for example, becomes slightly less."""
    return array("f", [score])[0]


def _has_label(connection: Connection, job: Job, wanted: Sequence[str]) -> ColumnElement[bool]:
    of_job = (models.c.model == job.model) & (models.c.weights == job.weights)
    rows = connection.execute(
        select(labels.c.model_number, labels.c.class_id, labels.c.label).join(models).where(of_job)
    ).all()
    if not rows:  # no worker has classified with this model yet
        return false()
    known = {row.label for row in rows}
    for label in wanted:
        if label not in known:
            raise _unknown_label(label, known, job)
    by_model: dict[int, list[int]] = {}
    for row in rows:
        if row.label in wanted:
            by_model.setdefault(row.model_number, []).append(row.class_id)
    return or_(
        *(
            and_(results.c.model_number == model, results.c.class_1.in_(ids))
            for model, ids in by_model.items()
        )
    )


def _unknown_label(label: str, known: set[str], job: Job) -> UsageError:
    within = sorted(name for name in known if label and label.lower() in name.lower())
    near = within or difflib.get_close_matches(label, known, _SHOWN_LABELS, cutoff=0.5)
    shown = ", ".join(repr(name) for name in near[:_SHOWN_LABELS])
    meant = f"Did you mean {shown}? " if near else ""
    return UsageError(
        f"No class of {job.model} is called {label!r}. {meant}`resnextq status {job.id} "
        "--classes` shows the most frequent classes."
    )
