"""How a submitted list is written: text, CSV or TSV, JSONL or Parquet, with its own columns.

`read_list` is the one place that knows it. The first bytes decide, not the name. Lists are read as
`submit` reads them: the same URIs and ids, in the same order.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

import orjson

from contract.errors import SourceError
from producer.jobs.export.formats import check_installed
from producer.submit.sources.columns import URI_NAMES, choose
from producer.submit.sources.columns import Wanted as Named
from producer.submit.sources.entry import Place

_HEAD_BYTES: Final = 65_536
_ROWS_AT_ONCE: Final = 10_000


class Entry(NamedTuple):
    uri: str
    ref: str | None
    values: Sequence[Any]
    """Of the columns that are kept."""


@dataclass(frozen=True)
class List:
    """A submitted list, open: the names of its kept columns, and its entries."""

    names: Sequence[str]
    entries: Iterator[Entry]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user has said of the list; the columns as in `submit`."""

    path: Path
    keep: tuple[str, ...] = ()
    """Empty: all but those of the URIs and the ids."""
    column: str | None = None
    id_column: str | None = None


def read_list(wanted: Wanted) -> List:
    """
    Raises:
        SourceError: the list cannot be read, or has no such column.
    """
    try:
        with wanted.path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise SourceError(f"--with {wanted.path} cannot be read: {error.strerror}.") from error
    if head.startswith(b"PAR1"):
        return _parquet(wanted)
    first = _first_line(head, wanted)
    if first.startswith("{"):
        return _json_lines(first, wanted)
    is_one_cell = "," not in first and "\t" not in first
    is_heading = wanted.column is not None or first.strip().lower() in URI_NAMES
    if "://" in first or (is_one_cell and not is_heading):
        return _text_list(wanted)
    return _table(first, wanted)


def _first_line(head: bytes, wanted: Wanted) -> str:
    """The first one that says something."""
    try:
        whole = head[: head.rfind(b"\n") + 1] or head
        lines = whole.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise SourceError(
            f"--with {wanted.path} is no text in UTF-8. It takes lists of text, CSV, JSONL and "
            "Parquet; unpack what is packed."
        ) from error
    return next((line for line in lines if line.strip() and not line.startswith("#")), "")


def _open(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", newline="")


def _text_list(wanted: Wanted) -> List:
    """A URI a line, after a TAB an id; it has no other columns."""
    if wanted.keep or wanted.column or wanted.id_column:
        raise SourceError(
            f"--with {wanted.path} is a list without a heading, so it has no columns for --keep, "
            "--column and --id-column. Its ids are in the results as `ref`."
        )

    def entries() -> Iterator[Entry]:
        with _open(wanted.path) as file:
            for line in file:
                text = line.strip()
                if text and not text.startswith("#"):
                    uri, _, ref = text.partition("\t")
                    yield Entry(uri.rstrip(), ref.strip() or None, ())

    return List((), entries())


def _table(heading: str, wanted: Wanted) -> List:
    delimiter = "\t" if "\t" in heading and "," not in heading else ","
    columns = _Columns(next(csv.reader([heading], delimiter=delimiter), []), wanted)

    def entries() -> Iterator[Entry]:
        with _open(wanted.path) as file:
            rows = filter(None, csv.reader(file, delimiter=delimiter))
            next(rows, None)  # the heading
            width = len(columns.names)
            for cells in rows:
                yield columns.entry([*cells, *[""] * (width - len(cells))])

    return List(columns.kept, entries())


def _json_lines(first: str, wanted: Wanted) -> List:
    """Objects of one line each; the first one names the columns."""
    columns = _Columns(list(_parsed(first, 1, wanted)), wanted)

    def entries() -> Iterator[Entry]:
        with _open(wanted.path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    record = _parsed(line, number, wanted)
                    yield columns.entry([record.get(name) for name in columns.names])

    return List(columns.kept, entries())


def _parsed(line: str, number: int, wanted: Wanted) -> dict[str, Any]:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise SourceError(f"--with {wanted.path}, line {number}: {error}.") from error
    if not isinstance(record, dict):
        raise SourceError(f"--with {wanted.path}, line {number}: no object in JSON.")
    return record


def _parquet(wanted: Wanted) -> List:
    check_installed("parquet")
    from producer.jobs.export.parquet import arrow  # noqa: PLC0415  (an extra)

    names = arrow().parquet.read_schema(wanted.path).names
    columns = _Columns(names, wanted)

    def entries() -> Iterator[Entry]:
        with arrow().parquet.ParquetFile(wanted.path) as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE):
                rows: Iterable[Sequence[Any]] = zip(*batch.to_pydict().values(), strict=True)
                yield from map(columns.entry, rows)

    return List(columns.kept, entries())


class _Columns:
    """Where in a row URI, id and the kept columns stand."""

    def __init__(self, names: Sequence[str], wanted: Wanted) -> None:
        """
        Raises:
            SourceError: the list has no such column.
        """
        self.names = names
        self._path = wanted.path
        at = Place(f"--with {wanted.path}")
        self._uri = names.index(choose(names, Named(wanted.column), at))
        self._ref = None if wanted.id_column is None else self._at(wanted.id_column, "--id-column")
        others = [n for n in range(len(names)) if n not in (self._uri, self._ref)]
        self._keep = [self._at(name, "--keep") for name in wanted.keep] or others
        self.kept = [names[at] for at in self._keep]

    def entry(self, row: Sequence[Any]) -> Entry:
        ref = None if self._ref is None else row[self._ref]
        if isinstance(ref, str):
            ref = ref.strip()
        known = None if ref in ("", None) else str(ref)
        return Entry(str(row[self._uri]).strip(), known, [row[at] for at in self._keep])

    def _at(self, name: str, option: str) -> int:
        if name not in self.names:
            raise SourceError(
                f"--with {self._path} has no column {name!r}, which {option} names. "
                f"Columns: {', '.join(map(repr, self.names)) or 'none'}."
            )
        return self.names.index(name)
