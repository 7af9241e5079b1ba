"""Rows → Parquet: flat columns of one declared schema, so even a job with only failures has it.

Each column of a window is converted at once. Row groups have 100,000 rows. Columns with few
different values are written as dictionaries. zstd compresses everything at its fastest level.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any, BinaryIO, Final

from sqlalchemy import BigInteger, ColumnElement, cast, func

from contract.database.tables import results
from producer.jobs.export.rows import NAMES, RANKS, Row, Vocabulary, as_text

ROWS_A_GROUP: Final = 100_000
_MICROSECONDS: Final = 1_000_000
_DICTIONARIES: Final = [
    "status",
    *(f"label_{rank}" for rank in RANKS),
    *(f"class_{rank}" for rank in RANKS),
    *("error_code", "model", "precision", "orientation", "format", "worker"),
]
# Columns that people filter by: a reader skips row groups by their statistics.
_STATISTICS: Final = ["position", "status", "label_1", "class_1", "score_1", "error_code"]


def arrow() -> Any:  # noqa: ANN401  (pyarrow has no types)
    """The package `pyarrow`, an optional extra. No other module of the producer loads it.

    It takes memory from the C library, unless the environment says otherwise: its own allocator
    keeps some 20 MB that an export has freed.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # read while it is loaded
    import pyarrow.compute  # noqa: PLC0415
    import pyarrow.parquet  # noqa: PLC0415

    return pyarrow


@cache
def schema() -> Any:  # noqa: ANN401  (pyarrow has no types)
    pa = arrow()
    return pa.schema(
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
            pa.field("settled_at", pa.timestamp("us", tz="UTC"), nullable=False),
        ]
    )


def more_columns(dialect: str) -> tuple[ColumnElement[Any], ...]:
    """The columns after `rows.COLUMNS`: the worker, and when the image finished.

    PostgreSQL sends microseconds as a number, which avoids one time object per row.
    """
    if dialect != "postgresql":
        return results.c.worker, results.c.settled_at
    seconds = func.date_part("epoch", results.c.settled_at)
    return results.c.worker, cast(func.round(seconds * _MICROSECONDS), BigInteger())


class ParquetFile:
    """Writes one file; `close` completes it."""

    def __init__(self, file: BinaryIO, vocabulary: Vocabulary, kept: Sequence[str] = ()) -> None:
        """`kept` names the submitted list's own columns."""
        self._vocabulary = vocabulary
        self._names: dict[int, Any] = {}
        self._kept = [f"input_{name}" for name in kept]
        self._pa = arrow()
        self._schema = schema()
        for name in self._kept:
            self._schema = self._schema.append(self._pa.field(name, self._pa.string()))
        self._writer = self._pa.parquet.ParquetWriter(
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
        """`kept` has the values of the submitted list's own columns, one sequence per row."""
        if not rows:
            return
        columns = self._columns(rows)
        if kept is not None and self._kept:
            for name, values in zip(self._kept, zip(*kept, strict=True), strict=True):
                columns[name] = self._array(name, [as_text(value) for value in values])
        arrays = [columns[name] for name in self._schema.names]
        self._waiting.append(self._pa.record_batch(arrays, schema=self._schema))
        self._rows += len(rows)
        if self._rows >= ROWS_A_GROUP:
            self._write_groups()

    def abandon(self) -> None:
        """Closes the writer while its file is open. pyarrow would write to the closed file
        later.
        """
        with suppress(Exception):
            self._writer.close()

    def close(self) -> None:
        if self._waiting:
            self._writer.write_table(self._pa.Table.from_batches(self._waiting, self._schema))
        self._writer.close()

    def _write_groups(self) -> None:
        table = self._pa.Table.from_batches(self._waiting, self._schema)
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
        columns = {name: self._array(name, given) for name, given in values.items()}
        for rank in RANKS:
            columns[f"label_{rank}"] = self._labels(models, values[f"class_{rank}"])
        titles = [self._vocabulary.title(model) for model in models]
        failed = self._pa.compute.is_valid(columns["error_code"])
        return columns | {
            "model": self._array("model", titles),
            "status": self._pa.compute.if_else(failed, "failed", "classified"),
        }

    def _labels(self, models: Sequence[int | None], classes: Sequence[int | None]) -> Any:  # noqa: ANN401
        """The labels of one rank. Rows almost always share one model; then its labels are looked up
        as an array.
        """
        known = {model for model in models if model is not None}
        if len(known) == 1:
            names = self._names_of(known.pop())
            if max((one for one in classes if one is not None), default=-1) < len(names):
                return names.take(self._pa.array(classes, self._pa.int16()))
        names_of = self._vocabulary.labels
        both = zip(models, classes, strict=True)
        found = [None if m is None or one is None else names_of(m).get(one) for m, one in both]
        return self._pa.array(found, self._pa.string())

    def _names_of(self, model: int) -> Any:  # noqa: ANN401  (an array)
        if model not in self._names:
            labels = self._vocabulary.labels(model)
            names = [labels.get(n) for n in range(max(labels, default=-1) + 1)]
            self._names[model] = self._pa.array(names, self._pa.string())
        return self._names[model]

    def _array(self, name: str, given: Sequence[Any]) -> Any:  # noqa: ANN401  (an array)
        kind = self._schema.field(name).type
        if name != "settled_at":
            return self._pa.array(given, kind)
        if isinstance(given[0], str):  # SQLite returns text
            given = self._pa.array(given).cast(self._pa.timestamp("us"))
        return self._pa.array(given).cast(self._pa.int64()).cast(kind)
