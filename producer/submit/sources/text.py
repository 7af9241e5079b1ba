"""Reads a list of text: one URI per line, optionally a TAB and the submitter's id.

Blank lines and lines that begin with # are skipped. Successive plain URIs are passed on as runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from producer.submit.sources.entry import Entry, Run
from producer.submit.sources.lines import binary, not_utf8, too_long, whole_lines
from producer.submit.sources.runs import run_at

# The longest URI in four-byte characters, a TAB and a long id fit.
MAX_LINE_BYTES: Final = 65_536
# Most bytes of odd lines that are read before the next search for plain ones.
MAX_ODD_BYTES: Final = 16_384


def read_text(blocks: Iterator[bytes], source: str) -> Iterator[Entry | Run]:
    """Reads the images of a list.

    Raises:
        SourceError: a line is too long or not UTF-8. The images before it are yielded first.
    """
    number, odd_bytes = 1, 0
    for lines in whole_lines(blocks, source, most=MAX_LINE_BYTES):
        block, at = lines, 0
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        while at < len(block):
            begin = at
            uris, at = run_at(block, begin)
            if uris:
                yield Run(uris, source, number)
                number += len(uris)
            # If many odd lines follow each other, the search for runs becomes rarer.
            odd_bytes = 0 if at - begin > odd_bytes else min(2 * odd_bytes + 100, MAX_ODD_BYTES)
            end = block.find(b"\n", at + odd_bytes) + 1 or len(block)
            yield from _read_closely(block[at:end], source, number)
            number += block.count(b"\n", at, end)
            at = end


def _read_closely(lines: bytes, source: str, first: int) -> Iterator[Entry]:
    for number, text in enumerate(_decode_all(lines, source, first), start=first):
        if text and not text.startswith("#"):
            uri, _, ref = text.partition("\t")
            yield Entry(uri.rstrip(), ref.strip() or None, source, number)


def _decode_all(lines: bytes, source: str, first: int) -> Iterator[str]:
    """The lines without surrounding blanks. Decodes all at once if no line has a fault."""
    apart = lines.split(b"\n")
    if b"\x00" not in lines and max(map(len, apart)) <= MAX_LINE_BYTES:
        with suppress(UnicodeDecodeError):
            return map(str.strip, lines.decode().split("\n"))
    return (_decode(line, source, number) for number, line in enumerate(apart, start=first))


def _decode(line: bytes, source: str, number: int) -> str:
    if b"\x00" in line:
        raise binary(source, number)
    if len(line) > MAX_LINE_BYTES:
        raise too_long(source, number, MAX_LINE_BYTES)
    try:
        return line.decode().strip()
    except UnicodeDecodeError as error:
        raise not_utf8(line, source, number, error.start) from error
