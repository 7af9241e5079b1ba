"""One interface for the three formats: a file that takes rows, window by window."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, BinaryIO, Final, Protocol

from sqlalchemy import ColumnElement

from contract.errors import UnavailableError
from producer.jobs.export.jsonl import JsonLines
from producer.jobs.export.rows import Row, Vocabulary
from producer.jobs.export.table import Table

FORMATS: Final = ("jsonl", "csv", "parquet")
SUFFIXES: Final = {name: f".{name}" for name in FORMATS}

Kept = Sequence[Sequence[Any]]
"""Values of the submitted list's own columns, one sequence per row."""


class FormatFile(Protocol):
    def write(self, rows: Sequence[Row], kept: Kept | None = None) -> None: ...

    def close(self) -> None:
        """Ends the format. The caller closes the file."""

    def abandon(self) -> None:
        """Stops writing. The file will not be read."""


class _TextFile:
    def __init__(self, file: BinaryIO, encoder: JsonLines | Table) -> None:
        self._file = file
        self._encoder = encoder
        file.write(encoder.head())

    def write(self, rows: Sequence[Row], kept: Kept | None = None) -> None:
        self._file.write(self._encoder.encode(rows, kept))

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass


def check_installed(form: str) -> None:
    """Checks that the format's library is installed.

    Raises:
        UnavailableError: it is not installed.
    """
    if form == "parquet" and find_spec("pyarrow") is None:
        raise UnavailableError(
            "--format parquet needs pyarrow, which is not installed. "
            "Install it with: pip install '.[parquet]' in the project's folder"
        )


def more_columns(form: str, dialect: str) -> tuple[ColumnElement[Any], ...]:
    """The columns of this format after `rows.COLUMNS`."""
    if form != "parquet":
        return ()
    from producer.jobs.export import parquet  # noqa: PLC0415  (an extra)

    return parquet.more_columns(dialect)


def begin(
    form: str, file: BinaryIO, vocabulary: Vocabulary, kept: Sequence[str] = ()
) -> FormatFile:
    """`kept` names the submitted list's own columns."""
    if form == "jsonl":
        return _TextFile(file, JsonLines(vocabulary, kept))
    if form == "csv":
        return _TextFile(file, Table(vocabulary, kept))
    from producer.jobs.export.parquet import ParquetFile  # noqa: PLC0415  (an extra)

    return ParquetFile(file, vocabulary, kept)
