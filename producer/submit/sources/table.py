"""Reads CSV and TSV with the standard library's csv module, block by block.

What csv passes silently is an error or a bad row here, with its line: rows of another width than
the heading, a NUL, two columns of one name, a quote that is not closed. A block may end inside a
quoted cell. Then its last record is read again with the next block. So an open quote takes bounded
memory, not the rest of the file.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import StringIO
from typing import Final, NamedTuple

from contract.errors import SourceError
from producer.submit.sources.columns import Wanted, check_once, choose, missing
from producer.submit.sources.entry import Bad, Image, Place
from producer.submit.sources.kind import delimiter_of, first_line
from producer.submit.sources.lines import decode, whole_lines
from producer.submit.sources.runs import Column, Lines, Rows, in_runs

MAX_RECORD_CHARS: Final = 1_048_576
_MAX_CELL_CHARS: Final = 131_072  # the csv module's own limit, for the whole process
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_CUT_OFF: Final = "unexpected end of data"


class Records(NamedTuple):
    """Consecutive rows."""

    rows: list[list[str]]
    first: int
    """The line of the first row."""
    follow: bool
    """Whether each row is one line."""

    def lines(self) -> Sequence[int]:
        if self.follow:
            return range(self.first, self.first + len(self.rows))
        return _lines_of(self.rows, self.first)


class Heading(NamedTuple):
    width: int
    uri: int
    ref: int | None
    column: Column
    kept: Sequence[tuple[str, int]] | None = None
    """Names and indexes of the columns to keep."""


def read_table(blocks: Iterator[bytes], source: str, wanted: Wanted) -> Iterator[Image]:
    """Reads the images of a table.

    Raises:
        SourceError: a column is missing, a quote is not closed, the file is not text, or a line is
            too long.
    """
    heading: Heading | None = None
    for records in _records(blocks, source):
        if heading is None:
            heading, records = _heading(records, source, wanted)  # noqa: PLW2901  (without it)
        if heading is not None and records.rows:
            yield from _images(records, heading)


def _records(blocks: Iterator[bytes], source: str) -> Iterator[Records]:
    delimiter: str | None = None
    rest, first = "", 1
    for data in whole_lines(blocks, source):
        delimiter = delimiter or delimiter_of(first_line(data))
        text = rest + decode(data, source, first + len(_LINE_END.findall(rest)))
        rows = _line_by_line(text, delimiter)
        if rows is not None:
            yield Records(rows, first, follow=True)
            first, rest = first + len(rows), ""
            continue
        rows, error = _parse(text, delimiter)
        yield Records(rows, first, follow=False)
        taken = sum(map(_lines_in, rows))
        first += taken
        rest = "" if error is None else _after(text, taken)
        if error is not None and (str(error) != _CUT_OFF or len(rest) > MAX_RECORD_CHARS):
            raise _wrong(error, rest, delimiter, source, first)
    if rest:
        raise _wrong(csv.Error(_CUT_OFF), rest, delimiter or ",", source, first)


def _line_by_line(text: str, delimiter: str) -> list[list[str]] | None:
    """The rows, if each is one line. Then the kind of line end does not matter."""
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    try:
        rows = list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error:
        return None
    return rows if len(rows) == len(lines) and "\r" not in text else None


def _parse(text: str, delimiter: str) -> tuple[list[list[str]], csv.Error | None]:
    """The complete records at the beginning, and the error of the one after them."""
    rows: list[list[str]] = []
    try:
        rows.extend(csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        return rows, error
    return rows, None


def _lines_in(row: list[str]) -> int:
    return 1 + sum(len(_LINE_END.findall(cell)) for cell in row if "\n" in cell or "\r" in cell)


def _lines_of(rows: list[list[str]], first: int) -> list[int]:
    numbers = []
    for row in rows:
        numbers.append(first)
        first += _lines_in(row)
    return numbers


def _after(text: str, lines: int) -> str:
    """The text after this number of lines."""
    file = StringIO(text, newline="")
    for _ in range(lines):
        file.readline()
    return file.read()


def _wrong(error: csv.Error, record: str, delimiter: str, source: str, first: int) -> SourceError:
    """The error of a record that begins in line `first`."""
    opened = _faulty_quote(record, delimiter)
    if opened is None:
        return Place(source, first).wrong(
            f"a cell of more than {_MAX_CELL_CHARS:,} characters ({error}). Remove that column."
        )
    line = first + len(_LINE_END.findall(record, 0, opened))
    begins = "" if line == first else f" (its row begins in line {first})"
    return Place(source, line).wrong(
        f"a quote opens here{begins} and is not closed where its cell ends. Close it, and double "
        'each " that is part of a cell.'
    )


def _faulty_quote(record: str, delimiter: str) -> int | None:
    """The position of a quote that is not closed, or is closed before its cell ends."""
    ends = (delimiter, "\n", "\r", "")
    opened, inside, begins, at = 0, False, True, 0
    while at < len(record):
        char, following = record[at], record[at + 1 : at + 2]
        if inside and char == '"' and following == '"':
            at += 1  # a doubled quote is part of the cell
        elif inside and char == '"':
            if following not in ends:
                return opened
            inside = False
        elif begins and char == '"':
            opened, inside = at, True
        begins = not inside and char in ends
        at += 1
    return opened if inside else None


def _heading(records: Records, source: str, wanted: Wanted) -> tuple[Heading | None, Records]:
    """The heading, and the rows after it."""
    number = next((n for n, row in enumerate(records.rows) if row), None)
    if number is None:
        return None, records
    line = records.lines()[number]
    at = Place(source, line)
    names = [name.strip() for name in records.rows[number]]
    check_once(names, at)
    name = choose(names, wanted, at)
    if "://" in name:
        raise at.wrong("there is a URI in place of the heading. Write a heading.")
    ref, ids = None, wanted.id_column
    if ids is not None:
        if ids not in names:
            raise missing(ids, names, "--id-column", at)
        ref = names.index(ids)
    first = line + _lines_in(records.rows[number])
    behind = Records(records.rows[number + 1 :], first, records.follow)
    column = Column(source, name, "line", ids)
    kept = None
    if wanted.keep is not None:
        kept = [(one, names.index(one)) for one in wanted.keep.of(names, (name, ids), at)]
    return Heading(len(names), names.index(name), ref, column, kept), behind


def _images(records: Records, heading: Heading) -> Iterator[Image]:
    if set(map(len, records.rows)) == {heading.width}:
        lines = None if records.follow else records.lines
        yield from _even(records.rows, heading, records.first, lines)
        return
    even: list[list[str]] = []
    numbers: list[int] = []
    for row, line in zip(records.rows, records.lines(), strict=True):
        if len(row) == heading.width:
            even.append(row)
            numbers.append(line)
        elif row:  # blank lines are skipped
            yield from _some(even, heading, numbers)
            even, numbers = [], []
            yield _ragged(row, heading, line)
    yield from _some(even, heading, numbers)


def _some(rows: list[list[str]], heading: Heading, numbers: list[int]) -> Iterator[Image]:
    if rows:
        yield from _even(rows, heading, numbers[0], partial(list, numbers))


def _even(
    rows: list[list[str]],
    heading: Heading,
    first: int,
    lines: Callable[[], Sequence[int]] | None,
) -> Iterator[Image]:
    at, ref, kept = heading.uri, heading.ref, heading.kept
    uris = [row[at] for row in rows]
    refs = None if ref is None else [row[ref] or None for row in rows]
    values = None if kept is None else [{name: row[n] for name, n in kept} for row in rows]
    yield from in_runs(Rows(uris, refs, values), heading.column, Lines(first, lines))


def _ragged(row: list[str], heading: Heading, line: int) -> Bad:
    column = heading.column
    shown = row[heading.uri] if heading.uri < len(row) else ""
    cells = "1 cell" if len(row) == 1 else f"{len(row)} cells"
    reason = f"{cells}, but the heading has {heading.width}"
    return Bad(reason, column.source, line, column.unit, None, shown)
