"""Lists of URIs in every format, for the tests of sources."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

Row = tuple[str, str, str]
"""Id, URI and caption."""
NAMES = ("id", "url", "caption")


def write(path: Path, layout: str, rows: Sequence[Row]) -> Path:
    FORMATS[layout](path, rows)
    return path


def _write_table(delimiter: str) -> Callable[[Path, Sequence[Row]], None]:
    def write_rows(path: Path, rows: Sequence[Row]) -> None:
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([NAMES, *rows])

    return write_rows


def _records(rows: Sequence[Row]) -> list[dict[str, str]]:
    return [dict(zip(NAMES, row, strict=True)) for row in rows]


def _write_json_lines(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in _records(rows)))


def _write_json(path: Path, rows: Sequence[Row]) -> None:
    path.write_text(json.dumps(_records(rows), indent=1))


def _write_parquet(path: Path, rows: Sequence[Row]) -> None:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    columns = dict(zip(NAMES, map(list, zip(*rows, strict=True)), strict=True))
    write_table(pa.table(columns), path, row_group_size=1_000)


FORMATS: dict[str, Callable[[Path, Sequence[Row]], None]] = {
    "csv": _write_table(","),
    "tsv": _write_table("\t"),
    "jsonl": _write_json_lines,
    "json": _write_json,
    "parquet": _write_parquet,
}
