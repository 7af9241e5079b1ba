"""Runs: successive plain URIs that are read and passed on as one.

With millions of URIs, every step per URI costs. So most URIs are never looked at alone: one regular
expression finds how many plain URIs follow each other. `run_at` reads lists of text in this way.
Tables and JSON give columns of texts, which `in_runs` joins by line ends and divides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from contract.uris import PLAIN
from producer.submit.sources.entry import Bad, Entry, Image, Run, Values

MAX_REF_CHARS: Final = 1_024
_PLAIN_LINES: Final = re.compile(rf"(?:{PLAIN}(?:\n|\Z))*+".encode())
_PLAIN_TEXT: Final = re.compile(rf"(?:{PLAIN}(?:\n|\Z))*+")


def run_at(lines: bytes, at: int) -> tuple[list[str], int]:
    """The plain URIs from `at` up to the first other line, and the place of that line."""
    match = _PLAIN_LINES.match(lines, at)
    if match is None or match.end() == at:
        return [], at
    uris = match[0].decode().split("\n")
    if not uris[-1]:  # after the end of the last line
        uris.pop()
    return uris, match.end()


class Column(NamedTuple):
    """What all rows of a block have in common."""

    source: str
    name: str | None
    """Name of the column with the URIs. None: the list has no columns."""
    unit: str
    id_name: str | None = None


class Rows(NamedTuple):
    """A block of rows, in columns."""

    uris: Sequence[str]
    refs: Sequence[str | None] | None = None
    """The ids. None: there are none."""
    values: Sequence[Values] | None = None
    """Other values of each row. None: not asked for."""

    def cut(self, begin: int, end: int) -> Rows:
        refs, values = self.refs, self.values
        return Rows(
            self.uris[begin:end],
            None if refs is None else refs[begin:end],
            None if values is None else values[begin:end],
        )


class Lines(NamedTuple):
    """The line or row numbers of a block."""

    first: int
    known: Callable[[], Sequence[int]] | None = None
    """The number of each row. None: they are consecutive."""

    def of(self, number: int) -> Sequence[int]:
        return self.known() if self.known else range(self.first, self.first + number)


def in_runs(rows: Rows, column: Column, lines: Lines, joined: str | None = None) -> Iterator[Image]:
    """A block of rows as runs and entries.

    Args:
        rows: the rows as read.
        column: which column they are from.
        lines: their line numbers.
        joined: the URIs joined by line ends, if known.
    """
    uris, refs, values = rows
    text = "\n".join(uris) if joined is None else joined
    match = _PLAIN_TEXT.match(text)
    if refs is not None and not _fit(refs):
        match = None
    whole = match is not None and match.end() == len(text) and uris[-1] != ""
    if whole and text.count("\n") == len(uris) - 1:
        first, known = lines
        yield Run(uris, column.source, first, refs, known, column.unit, column.name, values)
        return
    yield from _closely(rows, column, lines.of(len(uris)))


def _closely(rows: Rows, column: Column, lines: Sequence[int]) -> Iterator[Image]:
    """Stretches of plain URIs as runs, all others by themselves."""
    begin = 0
    for at, uri in enumerate(rows.uris):
        ref = None if rows.refs is None else rows.refs[at]
        if _is_plain(uri) and (ref is None or _fit((ref,))):
            continue
        if begin < at:
            yield _stretch(rows.cut(begin, at), column, lines[begin:at])
        begin = at + 1
        stripped = uri.strip()
        values = None if rows.values is None else rows.values[at]
        where = (column.source, lines[at])
        if stripped:
            yield Entry(stripped, ref, *where, None, column.unit, column.name, values)
        else:
            yield Bad("empty", *where, column.unit, column.name, "", ref, values=values)
    if begin < len(rows.uris):
        yield _stretch(rows.cut(begin, len(rows.uris)), column, lines[begin:])


def _stretch(rows: Rows, column: Column, lines: Sequence[int]) -> Run:
    uris, refs, values = rows
    known = refs if refs and any(ref is not None for ref in refs) else None
    where = (column.source, lines[0])
    return Run(uris, *where, known, lambda: lines, column.unit, column.name, values)


def _is_plain(uri: str) -> bool:
    match = _PLAIN_TEXT.match(uri)
    return match is not None and 0 < match.end() == len(uri) and "\n" not in uri


def _fit(refs: Sequence[str | None]) -> bool:
    """Whether all ids are simple: ASCII, without NUL, not too long. Others are checked one by
    one.
    """
    present = [ref for ref in refs if ref is not None]
    text = "".join(present)
    return (
        text.isascii() and "\x00" not in text and max(map(len, present), default=0) <= MAX_REF_CHARS
    )
