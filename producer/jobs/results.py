"""From SQL to a file: `resnextq results`, one line an image, in the order of submission.

Read in windows of positions, each a short transaction: memory does not grow with the job, and
a reader that pauses keeps nothing in the database waiting.
"""

from __future__ import annotations

import csv
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

from sqlalchemy import Engine, Row, Select, select

from contract.database.engine import reading
from contract.database.tables import TOP, labels, models, results
from contract.errors import UnavailableError
from contract.models import title_of
from contract.record import PROVENANCE, Record, classified, failed, make_record
from producer.jobs.cells import cell
from producer.jobs.job import Job

# Some megabytes in memory, and few enough queries that their number costs nothing.
POSITIONS_PER_WINDOW: Final = 5_000
RANKS: Final = range(1, TOP + 1)
CSV_COLUMNS: Final = (
    *("position", "uri", "ref", "status"),
    *(f"label_{rank}" for rank in RANKS),
    *(f"class_{rank}" for rank in RANKS),
    *(f"score_{rank}" for rank in RANKS),
    *("error_code", "error_detail", "model", "precision", "attempts"),
    *PROVENANCE,
    "orientation",  # last, since it came later
)

Write = Callable[[Iterator[Record], TextIO], int]


def read_results(engine: Engine, job: Job, only: str | None = None) -> Iterator[Record]:
    """What is settled of a job, as records of the shape that `--format jsonl` prints.

    `only` is "classified" or "failed".
    """
    vocabulary = Vocabulary(engine)
    for start in range(0, job.total, POSITIONS_PER_WINDOW):
        statement = _window(job.number, start, only)
        with reading(engine) as connection:
            rows = connection.execute(statement).all()
        for row in rows:
            yield _make_record(row, job, vocabulary)


def write_jsonl(records: Iterator[Record], file: TextIO) -> int:
    """How many lines were written."""
    count = 0
    for count, record in enumerate(records, start=1):  # noqa: B007  (counted)
        file.write(json.dumps(record) + "\n")
    return count


def write_csv(records: Iterator[Record], file: TextIO) -> int:
    """How many lines were written after the heading."""
    table = csv.DictWriter(file, CSV_COLUMNS, restval="", lineterminator="\n")
    table.writeheader()
    count = 0
    for count, record in enumerate(records, start=1):  # noqa: B007  (counted)
        table.writerow(_flatten(record))
    return count


FORMATS: Final[dict[str, Write]] = {"jsonl": write_jsonl, "csv": write_csv}


@contextmanager
def writing(path: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears whole once the block ends well.

    Raises:
        UnavailableError: the file cannot be written.
    """
    if path is None:
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
        yield sys.stdout
        return
    try:
        with _replacing(path) as file:
            yield file
    except OSError as error:
        raise UnavailableError(f"{path} cannot be written: {error.strerror}.") from error


class Vocabulary:
    """Titles and labels of the models that a job's results name; each read once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[int, tuple[str, dict[int, str]]] = {}

    def title(self, model_number: int) -> str:
        return self._model(model_number)[0]

    def label(self, model_number: int, class_id: int) -> str | None:
        return self._model(model_number)[1].get(class_id)

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


def _window(job_number: int, start: int, only: str | None) -> Select[Any]:
    statement = (
        select(results)
        .where(
            results.c.job_number == job_number,
            results.c.position >= start,
            results.c.position < start + POSITIONS_PER_WINDOW,
        )
        .order_by(results.c.position)
    )
    if only == "classified":
        return statement.where(results.c.error_code.is_(None))
    if only == "failed":
        return statement.where(results.c.error_code.is_not(None))
    return statement


def _make_record(row: Row[Any], job: Job, vocabulary: Vocabulary) -> Record:
    """The keys that an image has no value for are left out, but for those of the fixed shape."""
    values = dict(row._mapping)  # noqa: SLF001  (the documented way to read a row by name)
    numbered = row.model_number is not None
    return make_record(
        position=row.position,
        uri=row.uri,
        ref=row.ref,
        answer=(
            classified(_guesses(values, vocabulary))
            if row.error_code is None
            else failed(row.error_code, row.error_detail or "")
        ),
        # Of images that failed before a worker had seen the weights nobody else has a title.
        model=vocabulary.title(row.model_number) if numbered else title_of(job.model, job.weights),
        attempts=row.attempts,
        known=values,
    )


def _guesses(
    values: Mapping[str, Any], vocabulary: Vocabulary
) -> Iterator[tuple[str | None, int, float]]:
    """Label, class id and score of each class that the row has."""
    for rank in RANKS:
        class_id = values[f"class_{rank}"]
        if class_id is not None:
            label = vocabulary.label(values["model_number"], class_id)
            yield label, class_id, values[f"score_{rank}"]


def _flatten(record: Record) -> Record:
    """A record as a row of the table: no lists, no dictionaries, no formulas."""
    row: Record = {name: value for name, value in record.items() if name not in ("top5", "error")}
    for rank, guess in enumerate(record.get("top5", ()), start=1):
        row[f"label_{rank}"] = guess["label"]
        row[f"class_{rank}"] = guess["class_id"]
        row[f"score_{rank}"] = guess["score"]
    if "error" in record:
        row["error_code"] = record["error"]["code"]
        row["error_detail"] = record["error"]["detail"]
    return {name: cell(v) if isinstance(v, str) else v for name, v in row.items()}


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """Written beside the file and moved over it; a device or a pipe is written to as it is."""
    path = path.resolve()
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8", newline="\n") as file:
            yield file
        return
    part = path.with_name(f"{path.name[:200]}.{secrets.token_hex(4)}.part")
    try:
        with part.open("x", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
