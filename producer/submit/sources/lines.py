"""Whole lines from blocks of bytes, with bounded memory, and the faults that any text may have.

`kind` looks at the first lines; the readers of text take the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from contract.errors import SourceError
from producer.submit.sources.entry import Place

MAX_LINE_BYTES: Final = 1_048_576
"""Of a table or of JSONL: long captions fit, and a file without line ends is found out early."""


def whole_lines(
    blocks: Iterator[bytes], source: str, *, most: int = MAX_LINE_BYTES, first: int = 1
) -> Iterator[bytes]:
    """Blocks that end where a line does, as large as they come; the last one may lack its end.

    A line ends with LF or CR LF or, in a file of an old Mac, with CR alone.

    Raises:
        SourceError: a line is too long.
    """
    rest, number = b"", first
    for block in blocks:
        data = rest + block
        # CR as the last byte may be half of CR LF.
        end = max(data.rfind(b"\n"), data.rfind(b"\r", 0, -1)) + 1
        if end:
            whole, rest = data[:end], data[end:]
            yield whole
            number += count_lines(whole)
        else:
            rest = data
        if len(rest) > most:
            raise too_long(source, number, most)
    if rest:
        yield rest


def count_lines(data: bytes) -> int:
    lone = data.count(b"\r")
    return data.count(b"\n") + (lone - data.count(b"\r\n") if lone else 0)


def too_long(source: str, line: int, most: int) -> SourceError:
    return SourceError(
        f"{Place(source, line)}: longer than {most:,} bytes. "
        "Write a URI, or one record, on a line of its own."
    )


def decode(data: bytes, source: str, first: int) -> str:
    """Some lines as text; `first` is the number of the first one.

    Raises:
        SourceError: a NUL, or bytes that are no UTF-8; it names the line.
    """
    nul = data.find(b"\x00")
    if nul >= 0:
        raise binary(source, first + count_lines(data[:nul]))
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise not_utf8(data, source, first, error.start) from error


def binary(source: str, line: int) -> SourceError:
    return SourceError(
        f"{Place(source, line)}: binary data (a NUL). A list is text in UTF-8, or in UTF-16 with "
        "its byte order mark."
    )


def not_utf8(data: bytes, source: str, first: int, at: int) -> SourceError:
    """The byte's place is counted within its line."""
    begin = max(data.rfind(b"\n", 0, at), data.rfind(b"\r", 0, at)) + 1
    return SourceError(
        f"{Place(source, first + count_lines(data[:begin]))}: byte {at - begin + 1} "
        f"(0x{data[at]:02X}) is not UTF-8. If the file is in Latin-1 or Windows-1252, convert it: "
        "iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"
    )
