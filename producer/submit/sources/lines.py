"""Splits blocks of bytes into whole lines, with bounded memory, and reports faults of any text.

`kind` looks at the first lines, and the readers of text formats take the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from contract.errors import SourceError
from producer.submit.sources.entry import Place

MAX_LINE_BYTES: Final = 1_048_576
"""Limit for tables and JSONL. Long captions fit, and a file without line ends is noticed early."""


def whole_lines(
    blocks: Iterator[bytes], source: str, *, most: int = MAX_LINE_BYTES, first: int = 1
) -> Iterator[bytes]:
    """Yields blocks that end with a line, as large as they come. The last line may lack its end.

    A line ends with LF, CR LF or, in files of old Macs, CR alone.

    Raises:
        SourceError: a line is too long.
    """
    rest, number = b"", first
    for block in blocks:
        data = rest + block
        # A CR at the end may be half of a CR LF.
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
    return Place(source, line).wrong(
        f"longer than {most:,} bytes. Write each URI or record on its own line."
    )


def decode(data: bytes, source: str, first: int) -> str:
    """Decodes lines as UTF-8. `first` is the number of the first line.

    Raises:
        SourceError: a line has a NUL or is not UTF-8. The error names the line.
    """
    nul = data.find(b"\x00")
    if nul >= 0:
        raise binary(source, first + count_lines(data[:nul]))
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise not_utf8(data, source, first, error.start) from error


def binary(source: str, line: int) -> SourceError:
    return Place(source, line).wrong(
        "binary data (a NUL). A list must be text in UTF-8, or in UTF-16 with a byte order mark."
    )


def not_utf8(data: bytes, source: str, first: int, at: int) -> SourceError:
    """The error for a byte that is not UTF-8. Its position is counted within its line."""
    begin = max(data.rfind(b"\n", 0, at), data.rfind(b"\r", 0, at)) + 1
    return Place(source, first + count_lines(data[:begin])).wrong(
        f"byte {at - begin + 1} (0x{data[at]:02X}) is not UTF-8. If the file is in Latin-1 or "
        "Windows-1252, convert it: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"
    )
