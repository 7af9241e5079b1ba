"""Rows → Parquet: flat columns of one declared schema, so that a job of failures has it too.

A window's rows become a column at once. Row groups are of 100,000 rows; columns with few values
are written as dictionaries, and all of it by zstd at its quickest.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import BigInteger, ColumnElement, cast, func

from contract.database.tables import results
from producer.jobs.export.rows import NAMES, RANKS, Row, Vocabulary

ROWS_A_GROUP: Final = 100_000
_MICROSECONDS: Final = 1_000_000
_TIME: Final = pa.timestamp("us", tz="UTC")
SCHEMA: Final = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        ("ref", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        *((f"label_{rank}", pa.string()) for rank in RANKS),
        *((f"class_{rank}", pa.int16()) for rank in RANKS),
        *((f"score_{rank}", pa.float32()) for rank in RANKS),
        ("error_code", pa.string()),
        ("error_detail", pa.string()),
        pa.field("model", pa.string(), nullable=False),
        ("precision", pa.string()),
        ("orientation", pa.string()),
        pa.field("attempts", pa.int16(), nullable=False),
        ("final_uri", pa.string()),
        ("bytes", pa.int32()),
        ("sha256", pa.string()),
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("worker", pa.string()),
        pa.field("settled_at", _TIME, nullable=False),
    ]
)
_DICTIONARIES: Final = [
    "status",
    *(f"label_{rank}" for rank in RANKS),
    *(f"class_{rank}" for rank in RANKS),
    *("error_code", "model", "precision", "orientation", "format", "worker"),
]
# What somebody would look for: a reader skips row groups by it.
_STATISTICS: Final = ["position", "status", "label_1", "class_1", "score_1", "error_code"]


def more_columns(dialect: str) -> tuple[ColumnElement[Any], ...]:
    """What a row has behind `rows.COLUMNS`: the worker, and when it was settled.

    PostgreSQL gives microseconds as a number, since a time each would become an object.
    """
    if dialect != "postgresql":
        return results.c.worker, results.c.settled_at
    seconds = func.date_part("epoch", results.c.settled_at)
    return results.c.worker, cast(func.round(seconds * _MICROSECONDS), BigInteger())


class ParquetFile:
    """Writes one file; `close` ends it."""

    def __init__(self, file: BinaryIO, vocabulary: Vocabulary, kept: Sequence[str] = ()) -> None:
        """`kept` are names of the submitted list's own columns."""
        self._vocabulary = vocabulary
        self._kept = [f"input_{name}" for name in kept]
        self._schema = SCHEMA
        for name in self._kept:
            self._schema = self._schema.append(pa.field(name, pa.string()))
        self._writer = pq.ParquetWriter(
            file,
            self._schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=_DICTIONARIES,
            write_statistics=_STATISTICS,
        )
        self._waiting: list[Any] = []
        self._rows = 0

    def write(self, rows: Sequence[Row], kept: Sequence[Sequence[Any]] | None = None) -> None:
        """`kept` has the values of the submitted list's own columns, one sequence a row."""
        if not rows:
            return
        columns = self._columns(rows)
        if kept is not None:
            theirs = zip(*kept, strict=True)
            columns |= dict(
                zip(self._kept, (pa.array(c, pa.string()) for c in theirs), strict=True)
            )
        arrays = [columns[name] for name in self._schema.names]
        self._waiting.append(pa.record_batch(arrays, schema=self._schema))
        self._rows += len(rows)
        if self._rows >= ROWS_A_GROUP:
            self._write_groups()

    def abandon(self) -> None:
        """Ends it while its file is open: pyarrow would write to it later, when it is gone."""
        with suppress(Exception):
            self._writer.close()

    def close(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_batches(self._waiting, self._schema))
        self._writer.close()

    def _write_groups(self) -> None:
        table = pa.Table.from_batches(self._waiting, self._schema)
        whole = len(table) // ROWS_A_GROUP * ROWS_A_GROUP
        self._writer.write_table(table.slice(0, whole), row_group_size=ROWS_A_GROUP)
        rest = table.slice(whole)
        self._waiting = rest.to_batches() if len(rest) else []
        self._rows = len(rest)

    def _columns(self, rows: Sequence[Row]) -> dict[str, Any]:
        values: dict[str, Sequence[Any]] = dict(
            zip((*NAMES, "worker", "settled_at"), zip(*rows, strict=True), strict=True)
        )
        models = values.pop("model_number")
        for rank in RANKS:
            values[f"label_{rank}"] = self._labels(models, values[f"class_{rank}"])
        values["model"] = [self._vocabulary.title(model) for model in models]
        columns = {
            name: given if isinstance(given, pa.Array) else _array(given, self._schema, name)
            for name, given in values.items()
        }
        is_failed = pc.is_valid(columns["error_code"])
        return columns | {"status": pc.if_else(is_failed, "failed", "classified")}

    def _labels(self, models: Sequence[int | None], classes: Sequence[int | None]) -> Any:  # noqa: ANN401
        """By a number into the list of labels where all are of one model, as nearly always."""
        known = {model for model in models if model is not None}
        if len(known) > 1:
            return [
                None if one is None or model is None else self._vocabulary.labels(model).get(one)
                for model, one in zip(models, classes, strict=True)
            ]
        labels = self._vocabulary.labels(known.pop()) if known else {}
        names = pa.array([labels.get(n) for n in range(max(labels, default=-1) + 1)], pa.string())
        return names.take(pa.array(classes, pa.int16()))


def _array(given: Sequence[Any], schema: Any, name: str) -> Any:  # noqa: ANN401  (pyarrow has no types)
    if name == "settled_at":
        # Microseconds of PostgreSQL, or SQLite's text.
        if given and isinstance(given[0], str):
            return pa.array(given).cast(pa.timestamp("us")).cast(pa.int64()).cast(_TIME)
        return pa.array(given, pa.int64()).cast(_TIME)
    return pa.array(given, schema.field(name).type)
