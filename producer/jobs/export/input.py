"""`results --with INPUT`: the submitted list's own columns, beside the answers.

The list is read once more, in its order, which is that of the positions. Each row's URI must be the
one that stands there, and in the end the digest of the whole list must be the one that `submit`
has kept. What does not fit is an error, and no file appears.

`read_list` is the one place that knows how a list is written.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

from contract.errors import SourceError, UsageError
from producer.jobs.export.rows import Row
from producer.submit.digest import ImagesDigest

URI_NAMES: Final = ("uri", "url", "image_uri", "image_url")
"""Of a table's columns, the one that has the URIs is named so; case does not count."""
_ENTRIES_AT_ONCE: Final = 1_000
_HEAD_CHARS: Final = 65_536


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
        with _open(wanted.path) as file:
            head = file.read(_HEAD_CHARS)
    except OSError as error:
        raise SourceError(f"--with {wanted.path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SourceError(
            f"--with {wanted.path} is no text in UTF-8. It takes lists of text and CSV."
        ) from error
    lines = [line for line in head.splitlines() if line.strip() and not line.startswith("#")]
    first = lines[0] if lines else ""
    if "://" in first or (wanted.column is None and "," not in first and "\t" not in first):
        return _text_list(wanted)
    return _table(first, wanted)


def _open(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", newline="")


class Beside:
    """Gives each row what stands in the list at its position; rows come in the order of these."""

    def __init__(self, wanted: Wanted, digest: str | None, total: int) -> None:
        """`digest` is what submit has kept; None: by an older version, nothing."""
        found = read_list(wanted)
        self.names = found.names
        self._path = wanted.path
        self._entries = found.entries
        self._wanted_digest = digest
        self._total = total
        self._digest = ImagesDigest()

    def of(self, rows: Sequence[Row]) -> list[Sequence[Any]]:
        """
        Raises:
            UsageError: another URI stands there.
        """
        return [self._at(row[0], row[1]) for row in rows]

    def _at(self, position: int, uri: str) -> Sequence[Any]:
        self._pass(position - self._digest.images)
        entry = next(self._entries, None)
        if entry is None or entry.uri != uri:
            there = "nothing" if entry is None else repr(entry.uri)
            raise UsageError(
                f"--with {self._path} is not the list of this job: image {position} is {uri!r}, "
                f"and there is {there} in its place. Give the list that was submitted."
            )
        self._digest.add([entry.uri], [entry.ref])
        return entry.values

    def finish(self) -> None:
        """
        Raises:
            UsageError: the whole list is another one than was submitted.
        """
        self._pass(None)
        if self._digest.images != self._total:
            raise UsageError(
                f"--with {self._path} has {self._digest.images:,} images, and the job "
                f"{self._total:,}: it is not the list of this job. Give the one that was submitted."
            )
        if self._wanted_digest not in (None, self._digest.hexdigest()):
            raise UsageError(
                f"--with {self._path} is not the list of this job: its URIs, ids or their order "
                "are others. Give the one that was submitted, with the same --column and "
                "--id-column."
            )

    def _pass(self, number: int | None) -> None:
        """Goes on by so many entries, or to the end."""
        while number is None or number > 0:
            some = list(islice(self._entries, min(number or _ENTRIES_AT_ONCE, _ENTRIES_AT_ONCE)))
            if not some:
                return
            self._digest.add([entry.uri for entry in some], [entry.ref for entry in some])
            number = None if number is None else number - len(some)


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
    names = next(csv.reader([heading], delimiter=delimiter), [])
    column = wanted.column or next((n for n in names if n.strip().lower() in URI_NAMES), "uri")
    at = _column(names, column, "--column", wanted.path)
    id_at = (
        None
        if wanted.id_column is None
        else _column(names, wanted.id_column, "--id-column", wanted.path)
    )
    keep = [_column(names, name, "--keep", wanted.path) for name in wanted.keep] or [
        n for n in range(len(names)) if n not in (at, id_at)
    ]
    make = _entry_of(at, id_at, keep)

    def entries() -> Iterator[Entry]:
        with _open(wanted.path) as file:
            rows = filter(None, csv.reader(file, delimiter=delimiter))
            next(rows, None)  # the heading
            for cells in rows:
                yield make([*cells, *[""] * (len(names) - len(cells))])

    return List([names[n] for n in keep], entries())


def _entry_of(at: int, id_at: int | None, keep: Sequence[int]) -> Callable[[list[str]], Entry]:
    def make(cells: list[str]) -> Entry:
        ref = None if id_at is None else cells[id_at].strip() or None
        return Entry(cells[at].strip(), ref, [cells[n] for n in keep])

    return make


def _column(names: Sequence[str], name: str, option: str, path: Path) -> int:
    if name not in names:
        raise SourceError(
            f"--with {path} has no column {name!r}, which {option} names. "
            f"Columns: {', '.join(map(repr, names)) or 'none'}."
        )
    return names.index(name)
