"""Reads the boxes of an AVIF or HEIF file (ISO 14496-12): its brands, its end, its sizes.

`formats` uses it to tell the two apart. `decode` uses it for facts that a reader does not report:
whether the file is truncated, and how large the coded picture is, of which the header may only show
a corner.
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
_NOT_DECODED: Final = {
    b"mif3": "a HEIF or AVIF image with a short header (mif3)",
    b"avci": "a HEIF image of H.264",
    b"avcs": "a HEIF image of H.264",
    b"j2ki": "a HEIF image of JPEG 2000",
    b"j2is": "a HEIF image of JPEG 2000",
    b"vvic": "a HEIF image of H.266",
    b"vvis": "a HEIF image of H.266",
    b"jpeg": "a HEIF image of JPEG",
    b"jpgs": "a HEIF image of JPEG",
    b"crx ": "a camera's raw image",
    b"jp2 ": "a JPEG 2000 image",
    b"jxl ": "a JPEG XL image",
    b"M4A ": "an MP4 sound",
    b"M4B ": "an MP4 sound",
}
"""Brands of files that are not videos. The first one in a file decides."""
_HEAD: Final = struct.Struct(">I4s")
_LONG: Final = struct.Struct(">Q")
# Five boxes are usual, but a file may consist of millions of empty ones.
_MOST_BOXES: Final = 1000
_TO_THE_END: Final = 0
_LONG_FOLLOWS: Final = 1
# A few brands are usual, but a file may claim that it consists only of brands.
_MOST_BRANDS: Final = 64
# Image spatial extents: version and flags, width, height (ISO 23008-12, 6.5.3).
_EXTENTS: Final = re.compile(rb"ispe.{4}(.{8})", re.DOTALL)
_SIDES: Final = struct.Struct(">II")
# An item's entry in version 2 or 3: its id, its protection, then its type (8.11.6).
_ITEM_TYPE: Final = re.compile(rb"infe(?:\x02.{3}.{4}|\x03.{3}.{6})(.{4})", re.DOTALL)
_H265: Final = frozenset({b"hvc1", b"hev1"})
_OTHER_CODECS: Final = {
    b"avc1": "H.264",
    b"av01": "AV1",
    b"jpeg": "JPEG",
    b"j2k1": "JPEG 2000",
    b"vvc1": "H.266",
    b"evc1": "EVC",
    b"unci": "uncompressed samples",
    b"mski": "masks",
}
# A clean aperture: its length of 40 bytes, then its name (ISO 14496-12, 12.1.4).
_CLEAN_APERTURE: Final = b"\0\0\0\x28clap"


def format_of(body: bytes) -> str | None:
    """Returns AVIF, HEIF, or None."""
    brands = set(_brands(body))
    if brands & AVIF_BRANDS:
        return "AVIF"
    return "HEIF" if brands & HEIF_BRANDS else None


def other_format_of(body: bytes) -> str | None:
    """Returns what the file is instead of a supported AVIF or HEIF; None if it has no brands."""
    brands = _brands(body)
    if not brands:
        return None
    known = (_NOT_DECODED[brand] for brand in brands if brand in _NOT_DECODED)
    return next(known, "an MP4 or QuickTime video")


def _brands(body: bytes) -> list[bytes]:
    """The file's brands, the major one first."""
    if body[4:8] != b"ftyp":
        return []
    length = int.from_bytes(body[:4], "big")
    end = min(length, 16 + 4 * _MOST_BRANDS)
    return [body[8:12], *(body[n : n + 4] for n in range(16, end, 4))]


def ends_early(body: bytes) -> bool:
    """Whether the file ends before its last box does."""
    return any(end > len(body) for _, _, end in _boxes(body))


def coded_pixels(body: bytes) -> int:
    """The pixels of the largest picture in the file, by its header; 0 if it has no sizes."""
    sizes = [0]
    for name, begin, end in _boxes(body):
        if name == b"meta":
            for extents in _EXTENTS.finditer(body, begin, end):
                width, height = _SIDES.unpack(extents[1])
                sizes.append(width * height)
    return max(sizes)


def other_codec(body: bytes) -> str | None:
    """The codec of a HEIF's pictures if none of them is H.265; None if it is unknown."""
    types: set[bytes] = set()
    for name, begin, end in _boxes(body):
        if name == b"meta":
            types.update(item[1] for item in _ITEM_TYPE.finditer(body, begin, end))
    if types & _H265:
        return None
    return next((words for name, words in _OTHER_CODECS.items() if name in types), None)


def is_cropped(body: bytes) -> bool:
    """Whether the file asks to show only a part of a picture."""
    return any(
        name == b"meta" and body.find(_CLEAN_APERTURE, begin, end) >= 0
        for name, begin, end in _boxes(body)
    )


def _boxes(body: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields the name, begin and end of the outermost boxes, until one makes no sense."""
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
