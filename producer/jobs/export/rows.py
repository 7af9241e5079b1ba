"""A row of an export: its columns, the titles and labels that it needs, and its record.

`window` reads rows as plain tuples in the order of `COLUMNS`; `jsonl`, `table` and `parquet` write
them. No object is made per row: at a hundred thousand rows per second this alone would take a third
of the time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isfinite
from typing import Any, Final

from sqlalchemy import Engine, select

from contract.database.engine import reading
from contract.database.tables import TOP, labels, models, results
from contract.models import title_of
from contract.record import Record, classified, failed, make_record
from producer.jobs.job import Job

Row = tuple[Any, ...]

RANKS: Final = range(1, TOP + 1)
COLUMNS: Final = tuple(
    results.c[name]
    for name in (
        *("position", "uri", "ref", "attempts", "error_code", "error_detail", "final_uri"),
        *("bytes", "sha256", "format", "width", "height"),
        *("model_number", "precision", "orientation"),
        *(f"class_{rank}" for rank in RANKS),
        *(f"score_{rank}" for rank in RANKS),
    )
)
"""The first columns of each row, in this order."""
NAMES: Final = tuple(column.name for column in COLUMNS)
ERROR_CODE: Final = NAMES.index("error_code")
MODEL_NUMBER: Final = NAMES.index("model_number")
SCORES: Final = NAMES.index("score_1")
"""Index of the first score. The scores are the last of these columns."""


class Vocabulary:
    """Titles and labels of the models in a job's results. Each is read once."""

    def __init__(self, engine: Engine, job: Job) -> None:
        self._engine = engine
        # The title for images that failed before a worker had loaded the weights.
        self._of_job = title_of(job.model, job.weights)
        self._known: dict[int, tuple[str, dict[int, str]]] = {}

    def title(self, model_number: int | None) -> str:
        return self._of_job if model_number is None else self._model(model_number)[0]

    def labels(self, model_number: int) -> dict[int, str]:
        """Labels by class id."""
        return self._model(model_number)[1]

    def _model(self, number: int) -> tuple[str, dict[int, str]]:
        if number not in self._known:
            title = select(models.c.title).where(models.c.number == number)
            names = select(labels.c.class_id, labels.c.label).where(labels.c.model_number == number)
            with reading(self._engine) as connection:
                self._known[number] = (
                    connection.execute(title).scalar_one(),
                    {row.class_id: row.label for row in connection.execute(names)},
                )
        return self._known[number]


def as_text(value: object) -> str:
    """A value of the input as text for a cell: numbers, lists and objects as in JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float, list, dict)):
        return as_json(value)
    return "" if value is None else str(value)


def as_json(value: object) -> str:
    """A value of the input as JSON. Infinite numbers and NaN become null, since JSON has none."""
    try:
        return json.dumps(value, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), default=str)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def record_of(row: Row, vocabulary: Vocabulary) -> Record:
    """The record of a row. Only the fixed keys are there without a value; other empty ones are left
    out.
    """
    values = dict(zip(NAMES, row, strict=False))
    return make_record(
        position=values["position"],
        uri=values["uri"],
        ref=values["ref"],
        answer=(
            classified(_guesses(values, vocabulary))
            if values["error_code"] is None
            else failed(values["error_code"], values["error_detail"] or "")
        ),
        model=vocabulary.title(values["model_number"]),
        attempts=values["attempts"],
        known=values,
    )


def _guesses(
    values: dict[str, Any], vocabulary: Vocabulary
) -> Sequence[tuple[str | None, int, float]]:
    """Label, class id and score of each of the row's classes."""
    return [
        (
            vocabulary.labels(values["model_number"]).get(values[f"class_{rank}"]),
            values[f"class_{rank}"],
            values[f"score_{rank}"],
        )
        for rank in RANKS
        if values[f"class_{rank}"] is not None
    ]
