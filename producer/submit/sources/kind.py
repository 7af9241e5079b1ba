"""Decides by its first bytes how a list is written: Parquet, JSON array, JSONL, table or text.

The file's name does not matter, but a file named `.csv` with several columns needs a heading.
`read` calls this once per list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto
from itertools import chain
from typing import Final

from producer.submit.sources.columns import URI_NAMES, Wanted
from producer.submit.sources.entry import Place
from producer.submit.sources.lines import MAX_LINE_BYTES
from producer.submit.sources.opening import PARQUET

_DELIMITERS: Final = (b"\t", b",", b";")
_QUOTED: Final = re.compile(rb'"[^"]*"?')
_URI_IN_QUOTES: Final = re.compile(rb'"[^",;\t]*://[^"]*"')
_CSV: Final = re.compile(r"\.csv(\.gz|\.zst)?$", re.IGNORECASE)
# Beside URIs, a line in a text list may begin like this.
_PATHS: Final = (b"/", b"./", b"../", b"~")


class Kind(Enum):
    TEXT = auto()
    TABLE = auto()
    JSON_LINES = auto()
    JSON_ARRAY = auto()
    PARQUET = auto()


def decide(blocks: Iterator[bytes], source: str, wanted: Wanted) -> tuple[Kind, Iterator[bytes]]:
    """The kind of the list, and all of its blocks.

    Raises:
        SourceError: a column was asked for, but the list has no heading; or the list is named
            `.csv` and has several columns, but no heading.
    """
    head = b""
    for block in blocks:
        head += block
        if head.startswith(PARQUET) or _first_line(head) is not None:
            break
        if len(head) > MAX_LINE_BYTES:
            break
    line = _first_line(head + b"\n") or b""
    return _kind_of(head, line, source, wanted), chain((head,) if head else (), blocks)


def delimiter_of(heading: bytes) -> str:
    """The character that separates the cells of a heading: TAB, comma or semicolon."""
    bare = _QUOTED.sub(b"", heading)
    most = max(_DELIMITERS, key=bare.count)
    return most.decode() if most in bare else ","


def first_line(data: bytes) -> bytes:
    """The first line that is not blank."""
    return _first_line(data + b"\n") or b""


def _first_line(head: bytes) -> bytes | None:
    """The first complete line that is neither blank nor a comment. None: not read yet."""
    lines = head.splitlines(keepends=True)
    for line in lines:
        if line.endswith((b"\n", b"\r")) and line.strip() and not line.lstrip().startswith(b"#"):
            return line.strip()
    return None


def _kind_of(head: bytes, line: bytes, source: str, wanted: Wanted) -> Kind:
    if head.startswith(PARQUET):
        return Kind.PARQUET
    if line.startswith(b"["):
        return Kind.JSON_ARRAY
    if line.startswith(b"{"):
        return Kind.JSON_LINES
    if line.startswith(b'"'):
        return Kind.JSON_LINES if _URI_IN_QUOTES.fullmatch(line) else Kind.TABLE
    if b"://" in line or line.startswith(_PATHS) or not line:
        return _text(line, source, wanted)
    is_name = line.decode(errors="replace").lower() in URI_NAMES
    has_cells = any(delimiter in line for delimiter in _DELIMITERS)
    return Kind.TABLE if wanted or is_name or has_cells else _text(line, source, wanted)


def _text(line: bytes, source: str, wanted: Wanted) -> Kind:
    if line:
        wanted.check_none(Place(source, 1), "a list without a heading", "Write a heading")
        if _CSV.search(source) and any(delimiter in line for delimiter in (b",", b";")):
            raise Place(source, 1).wrong(
                "this is CSV by its name, but its first line is a URI. Write a heading above it, "
                "such as `url,caption`. If each line is one URI with commas in it, rename the file "
                "to .txt."
            )
    return Kind.TEXT
