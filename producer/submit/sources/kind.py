"""How a list is written, by its first bytes: Parquet, a JSON array, JSONL, a table, or text.

The name of a file says nothing. `read` asks here once for each list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto
from itertools import chain
from typing import Final

from contract.errors import SourceError
from producer.submit.sources.columns import URI_NAMES, Wanted
from producer.submit.sources.entry import Place
from producer.submit.sources.lines import MAX_LINE_BYTES
from producer.submit.sources.opening import PARQUET

_DELIMITERS: Final = (b"\t", b",", b";")
_QUOTED: Final = re.compile(rb'"[^"]*"?')
_URI_IN_QUOTES: Final = re.compile(rb'"[^",;\t]*://[^"]*"')
# A line of a list of text begins so, beside URIs.
_PATHS: Final = (b"/", b"./", b"../", b"~")


class Kind(Enum):
    TEXT = auto()
    TABLE = auto()
    JSON_LINES = auto()
    JSON_ARRAY = auto()
    PARQUET = auto()


def decide(blocks: Iterator[bytes], source: str, wanted: Wanted) -> tuple[Kind, Iterator[bytes]]:
    """The kind, and all of the blocks.

    Raises:
        SourceError: a column is wanted of a list without a heading.
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
    """What divides the cells of a heading: TAB, comma or semicolon."""
    bare = _QUOTED.sub(b"", heading)
    most = max(_DELIMITERS, key=bare.count)
    return most.decode() if most in bare else ","


def first_line(data: bytes) -> bytes:
    """The first line that is not blank."""
    return _first_line(data + b"\n") or b""


def _first_line(head: bytes) -> bytes | None:
    """The first whole line that is neither blank nor a comment; None: it is not there yet."""
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
        if wanted and line:
            raise SourceError(
                f"{Place(source, 1)}: a list without a heading, so there are no columns for "
                "--column and --id-column. Write a heading, or leave these options out."
            )
        return Kind.TEXT
    is_name = line.decode(errors="replace").lower() in URI_NAMES
    has_cells = any(delimiter in line for delimiter in _DELIMITERS)
    return Kind.TABLE if wanted or is_name or has_cells else Kind.TEXT
