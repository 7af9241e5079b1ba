"""The boxes that an AVIF or HEIF file consists of (ISO 14496-12): its brands, its ends, its sizes.

`formats` tells the two apart by it; `decode` learns what a reader does not say: whether the file
was cut, and how large the coded picture is, of which a header may show a corner alone.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Final

AVIF_BRANDS: Final = frozenset({b"avif", b"avis"})
HEIF_BRANDS: Final = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1"}
)
_HEAD: Final = struct.Struct(">I4s")
_LONG: Final = struct.Struct(">Q")
# A file may consist of millions of empty ones; five are usual.
_MOST_BOXES: Final = 1000
_TO_THE_END: Final = 0
_LONG_FOLLOWS: Final = 1
# Of brands there are a handful; a file may say that all of it is brands.
_MOST_BRANDS: Final = 64
# Image spatial extents: version and flags, width, height (ISO 23008-12, 6.5.3).
_EXTENTS: Final = re.compile(rb"ispe.{4}(.{8})", re.DOTALL)
_SIDES: Final = struct.Struct(">II")


def format_of(body: bytes) -> str | None:
    """AVIF, HEIF, or None where it is neither."""
    if body[4:8] != b"ftyp":
        return None
    length = int.from_bytes(body[:4], "big")
    end = min(length, 16 + 4 * _MOST_BRANDS)
    brands = {body[8:12], *(body[n : n + 4] for n in range(16, end, 4))}
    if brands & AVIF_BRANDS:
        return "AVIF"
    return "HEIF" if brands & HEIF_BRANDS else None


def ends_early(body: bytes) -> bool:
    """Whether the file ends before its last box does."""
    return any(end > len(body) for _, _, end in _boxes(body))


def coded_pixels(body: bytes) -> int:
    """Of the largest picture in it, as its header says; 0 where it does not say."""
    sizes = [0]
    for name, begin, end in _boxes(body):
        if name == b"meta":
            for extents in _EXTENTS.finditer(body, begin, end):
                width, height = _SIDES.unpack(extents[1])
                sizes.append(width * height)
    return max(sizes)


def _boxes(body: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, begin and end of each of the outermost ones, as far as they make sense."""
    begin = 0
    for _ in range(_MOST_BOXES):
        if begin + _HEAD.size > len(body):
            return
        length, name = _HEAD.unpack_from(body, begin)
        least = _HEAD.size
        if length == _LONG_FOLLOWS and begin + _HEAD.size + _LONG.size <= len(body):
            (length,) = _LONG.unpack_from(body, begin + _HEAD.size)
            least += _LONG.size
        if length == _TO_THE_END:
            length = len(body) - begin
        if length < least:
            return
        yield name, begin, begin + length
        begin += length
