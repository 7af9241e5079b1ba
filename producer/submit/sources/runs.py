"""Runs: successive URIs that need no closer look, read and passed on as one.

A list of millions of URIs costs what is done for each of them, so most are never looked at alone:
one regular expression finds how many of those that follow are plain URIs and nothing else. Lists
of text are read so at once (`run_at`); tables and JSON give columns of texts, which `in_runs`
joins by line ends and divides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from contract.uris import PLAIN
from producer.submit.sources.entry import Bad, Entry, Image, Run

MAX_REF_CHARS: Final = 1_024
_PLAIN_LINES: Final = re.compile(rf"(?:{PLAIN}(?:\n|\Z))*+".encode())
_PLAIN_TEXT: Final = re.compile(rf"(?:{PLAIN}(?:\n|\Z))*+")


def run_at(lines: bytes, at: int) -> tuple[list[str], int]:
    """The plain URIs of the lines from `at` on, up to the first other line, and where that is."""
    match = _PLAIN_LINES.match(lines, at)
    if match is None or match.end() == at:
        return [], at
    uris = match[0].decode().split("\n")
    if not uris[-1]:  # behind the last line's end
        uris.pop()
    return uris, match.end()


class Column(NamedTuple):
    """What is the same for all rows of a block."""

    source: str
    name: str | None
    """Of the column with the URIs; None where the list has none."""
    unit: str
    id_name: str | None = None


class Lines(NamedTuple):
    """The lines, or rows, of a block."""

    first: int
    known: Callable[[], Sequence[int]] | None = None
    """Of each; None: they follow each other."""

    def of(self, number: int) -> Sequence[int]:
        return self.known() if self.known else range(self.first, self.first + number)


def in_runs(
    uris: Sequence[str],
    refs: Sequence[str | None] | None,
    column: Column,
    lines: Lines,
    joined: str | None = None,
) -> Iterator[Image]:
    """A block of rows as runs and entries.

    Args:
        uris: as they stand there.
        refs: None: there are none.
        column: where they stand.
        lines: of each.
        joined: the URIs with line ends between them, where that is known already.
    """
    text = "\n".join(uris) if joined is None else joined
    match = _PLAIN_TEXT.match(text)
    if refs is not None and not _fit(refs):
        match = None
    whole = match is not None and match.end() == len(text) and uris[-1] != ""
    if whole and text.count("\n") == len(uris) - 1:
        yield Run(uris, column.source, lines.first, refs, lines.known, column.unit, column.name)
        return
    yield from _closely(uris, refs or [None] * len(uris), column, lines.of(len(uris)))


def _closely(
    uris: Sequence[str], refs: Sequence[str | None], column: Column, lines: Sequence[int]
) -> Iterator[Image]:
    """Stretches of plain ones together, all others by themselves."""
    begin = 0
    for at, (uri, ref) in enumerate(zip(uris, refs, strict=True)):
        if _is_plain(uri) and (ref is None or _fit((ref,))):
            continue
        if begin < at:
            yield _stretch(uris[begin:at], refs[begin:at], column, lines[begin:at])
        begin = at + 1
        stripped = uri.strip()
        if stripped:
            yield Entry(stripped, ref, column.source, lines[at], None, column.unit, column.name)
        else:
            yield Bad("empty", column.source, lines[at], column.unit, column.name, "", ref)
    if begin < len(uris):
        yield _stretch(uris[begin:], refs[begin:], column, lines[begin:])


def _stretch(
    uris: Sequence[str], refs: Sequence[str | None], column: Column, lines: Sequence[int]
) -> Run:
    known = refs if any(ref is not None for ref in refs) else None
    return Run(uris, column.source, lines[0], known, lambda: lines, column.unit, column.name)


def _is_plain(uri: str) -> bool:
    match = _PLAIN_TEXT.match(uri)
    return match is not None and 0 < match.end() == len(uri) and "\n" not in uri


def _fit(refs: Sequence[str | None]) -> bool:
    """Whether a text column takes all of them at a glance; others are looked at one by one."""
    present = [ref for ref in refs if ref is not None]
    text = "".join(present)
    return (
        text.isascii() and "\x00" not in text and max(map(len, present), default=0) <= MAX_REF_CHARS
    )
