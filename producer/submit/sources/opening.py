"""Opens a list: what is packed by gzip or zstd is unpacked, and UTF-16 becomes UTF-8.

`read` gives a file, standard input or an object of a store; `kind` and the readers get blocks of
bytes in UTF-8, each as it comes: what a pipe has given is not held back until more is there. The
first bytes decide, not the name. A packed file that ends early, or is damaged, is an error that
names it; all members of a gzip file and all frames of a zstd file are read. (The package
`zstandard` reads a file that ends early as if it were whole, and stops after the first frame.)
"""

from __future__ import annotations

import codecs
import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO, Final

from contract.errors import SourceError
from producer.submit.sources.entry import shorten

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BLOCK_BYTES: Final = 262_144
"""So much of a list is read at once."""
# Enough for every mark below.
HEAD_BYTES: Final = 8
PARQUET: Final = b"PAR1"
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
# A frame that zstd skips, 0x184D2A50 to 0x184D2A5F: some programs begin a file with one.
_ZSTD_SKIPPED: Final = b"\x2a\x4d\x18"
# What is no list, by its first bytes, and what to do with it.
_STRANGERS: Final = (
    (b"PK\x03\x04", "a ZIP file or a spreadsheet. Unpack it, or save the sheet as CSV"),
    (b"BZh", "packed by bzip2. Unpack it, or pack it with gzip or zstd"),
    (b"\xfd7zXZ\x00", "packed by xz. Unpack it, or pack it with gzip or zstd"),
    (b"ARROW1", "an Arrow (Feather) file. Write it as Parquet"),
    (b"ORC", "an ORC file. Write it as Parquet"),
    (b"Obj\x01", "an Avro file. Write it as Parquet or JSONL"),
    (b"%PDF-", "a PDF. A list of URIs is text, CSV, TSV, JSON, JSONL or Parquet"),
    (b"\xff\xd8\xff", "a JPEG image. Name it with .jpg at its end to submit it"),
    (b"\x89PNG", "a PNG image. Name it with .png at its end to submit it"),
)
_BOM: Final = codecs.BOM_UTF8
# UTF-32 first: its mark begins with that of UTF-16.
_WIDE: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def open_blocks(file: BinaryIO, source: str) -> Iterator[bytes]:
    """The bytes of a list in UTF-8, without a byte order mark; `file` is closed at its end.

    A file of Parquet comes out as it is, to be known by its first bytes.

    Raises:
        SourceError: it is packed and damaged or ends early; or of a kind that is no list.
    """
    head = read_head(file)
    if head.startswith(_GZIP):
        blocks = _unpacked(gzip.GzipFile(fileobj=_with_head(head, file)), source, "gzip")
    elif head.startswith(_ZSTD) or _is_skipped_frame(head):
        blocks = _unpacked(zstd.ZstdFile(_with_head(head, file)), source, "zstd")
    else:
        blocks = chain((head,) if head else (), _blocks(file))
    return _in_utf8(blocks, source)


def read_head(file: BinaryIO) -> bytes:
    """The first bytes, of a pipe as soon as they or a whole line are there."""
    head = b""
    while len(head) < HEAD_BYTES and b"\n" not in head:
        block = file.read1(BLOCK_BYTES)  # type: ignore[attr-defined]  # a buffered file's
        if not block:
            break
        head += block
    return head


def _is_skipped_frame(head: bytes) -> bool:
    return head[1:4] == _ZSTD_SKIPPED and head[0] & 0xF0 == 0x50  # noqa: PLR2004  (its mark)


def _with_head(head: bytes, file: BinaryIO) -> BinaryIO:
    return io.BufferedReader(_WithHead(head, file), BLOCK_BYTES)


class _WithHead(io.RawIOBase):
    """A file whose first bytes have been read already."""

    def __init__(self, head: bytes, file: BinaryIO) -> None:
        self._head = head
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = len(buffer)
        data = self._head[:size] or self._file.read1(size)  # type: ignore[attr-defined]
        self._head = self._head[size:]
        buffer[: len(data)] = data
        return len(data)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read1(BLOCK_BYTES):  # type: ignore[attr-defined]  # a buffered file's
        yield block


def _unpacked(file: gzip.GzipFile | zstd.ZstdFile, source: str, how: str) -> Iterator[bytes]:
    try:
        while block := file.read1(BLOCK_BYTES):
            yield block
    except EOFError as error:
        raise SourceError(
            f"{shorten(source)} is packed by {how} and ends before its end: it is not whole. "
            "Copy or pack it again."
        ) from error
    except (gzip.BadGzipFile, zlib.error, zstd.ZstdError) as error:
        raise SourceError(
            f"{shorten(source)} is packed by {how} and damaged: {str(error).rstrip('.')}. "
            "Copy or pack it again."
        ) from error


def _in_utf8(blocks: Iterator[bytes], source: str) -> Iterator[bytes]:
    head = b""
    for block in blocks:
        head += block
        if len(head) >= HEAD_BYTES or b"\n" in head:
            break
    for mark, what in _STRANGERS:
        if head.startswith(mark):
            raise SourceError(f"{shorten(source)} is {what}.")
    for mark, encoding in _WIDE:
        if head.startswith(mark):
            yield from _recoded(chain((head,), blocks), source, encoding)
            return
    head = head.removeprefix(_BOM)
    if head:
        yield head
    yield from blocks


def _recoded(blocks: Iterator[bytes], source: str, encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for block in blocks:
            yield decoder.decode(block).encode()
        decoder.decode(b"", final=True)
    except UnicodeError as error:
        raise SourceError(
            f"{shorten(source)} begins as {encoding.upper()} and is none further on: "
            "write it in UTF-8."
        ) from error
