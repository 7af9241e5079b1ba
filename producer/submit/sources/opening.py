"""Opens a list: decompresses gzip and zstd, and converts UTF-16 to UTF-8.

`read` passes a file, standard input or an object of a store. `kind` and the readers get blocks of
bytes in UTF-8, each as soon as it arrives: data from a pipe is not held back. The first bytes
decide, not the name. A compressed file that is damaged or ends early is an error that names it. All
members of a gzip file and all frames of a zstd file are read. (The package `zstandard` treats a
file that ends early as complete, and stops after the first frame.)
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
"""Bytes of a list that are read at once."""
# Enough for every mark below.
HEAD_BYTES: Final = 8
PARQUET: Final = b"PAR1"
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
# The mark of a frame that zstd skips, 0x184D2A50 to 0x184D2A5F. Some programs begin a file with it.
_ZSTD_SKIPPED: Final = b"\x2a\x4d\x18"
# First bytes of files that are not lists, with what they are and advice.
_STRANGERS: Final = (
    (b"PK\x03\x04", "a ZIP file or a spreadsheet. Unpack it, or save the sheet as CSV"),
    (b"BZh", "compressed with bzip2. Decompress it, or compress it with gzip or zstd"),
    (b"\xfd7zXZ\x00", "compressed with xz. Decompress it, or compress it with gzip or zstd"),
    (b"ARROW1", "an Arrow (Feather) file. Write it as Parquet"),
    (b"ORC", "an ORC file. Write it as Parquet"),
    (b"Obj\x01", "an Avro file. Write it as Parquet or JSONL"),
    (b"%PDF-", "a PDF. A list of URIs is text, CSV, TSV, JSON, JSONL or Parquet"),
    (b"\xff\xd8\xff", "a JPEG image. To submit it, give it a name that ends with .jpg"),
    (b"\x89PNG", "a PNG image. To submit it, give it a name that ends with .png"),
)
_BOM: Final = codecs.BOM_UTF8
# UTF-32 first: its byte order mark begins like that of UTF-16.
_WIDE: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def open_blocks(file: BinaryIO, source: str) -> Iterator[bytes]:
    """The bytes of a list in UTF-8, without a byte order mark.

    Parquet comes out unchanged, to be recognised by its first bytes.

    Raises:
        SourceError: the file is compressed and damaged or ends early, or it is not a list.
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
    """The first bytes. From a pipe: as soon as HEAD_BYTES or a whole line have arrived."""
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
    """A file whose first bytes have already been read."""

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
            f"{shorten(source)} is a {how} file that ends too early, so it is incomplete. Copy or "
            "compress it again."
        ) from error
    except (gzip.BadGzipFile, zlib.error, zstd.ZstdError) as error:
        raise SourceError(
            f"{shorten(source)} is a damaged {how} file: {str(error).rstrip('.')}. Copy or "
            "compress it again."
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
            f"{shorten(source)} begins as {encoding.upper()}, but the rest is not: write it in "
            "UTF-8."
        ) from error
