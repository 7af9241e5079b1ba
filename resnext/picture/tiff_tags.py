"""Reads the tags of a TIFF's first page that affect its pixels, before any other code reads them.

Pillow creates a Python number for each value, and a file may have millions of them. So this limits
their number while a value still costs nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from resnext.picture.file_bytes import MOST_HEADER_READS, HeaderTooLong
from resnext.picture.refusals import Damaged

BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 258, 259, 262, 266
SAMPLES, PLANES, PREDICTOR, EXTRA, FORMAT = 277, 284, 317, 338, 339
INKS, OLD_STREAM = 332, 513
YCC_WEIGHTS, YCC_SAMPLING, BLACK_AND_WHITE = 529, 530, 532
_OF_LAYOUT: Final = frozenset(
    {
        *(BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, SAMPLES, PLANES, PREDICTOR, EXTRA, FORMAT),
        *(INKS, OLD_STREAM, YCC_WEIGHTS, YCC_SAMPLING, BLACK_AND_WHITE),
    }
)
PALETTE: Final = 320
# The begins and lengths of strips and tiles, and the colours of a palette.
_MANY: Final = frozenset({273, 279, 324, 325, PALETTE})
# Other tags for which Pillow creates numbers: sides, resolutions, orientation.
_FEW: Final = frozenset({*_OF_LAYOUT, 256, 257, 274, 278, 282, 283, 296, 322, 323})
# XMP and a profile. They stay bytes if that is their type.
_TEXTS: Final = frozenset({700, 34675})
# A picture of 65,535 rows may have a strip for each row in each of three planes.
MOST_MANY: Final = 200_000
# Bits, formats and extra samples have one value per sample. At most six samples are supported.
MOST_FEW: Final = 64
# The types in TIFF 6.0, section 2, and in BigTIFF, with struct's letter for a number.
_LETTERS: Final = {1: "B", 3: "H", 4: "I", 5: "II", 6: "b", 8: "h", 9: "i", 16: "Q"}
_OF_BYTES: Final = frozenset({1, 2, 6, 7})


@dataclass(frozen=True)
class TiffTags:
    big_endian: bool
    big: bool
    """Whether it is a BigTIFF."""
    numbers: dict[int, tuple[int, ...]]
    """The numbers by tag. A rational is two numbers."""

    def one(self, tag: int, usual: int) -> int:
        return self.numbers.get(tag, (usual,))[0]


@dataclass(frozen=True)
class _Entry:
    tag: int
    kind: int
    count: int
    value: bytes
    """The numbers themselves, or their position."""


def read_tags(content: bytes) -> TiffTags:
    """Reads the tags.

    Raises:
        Damaged: a tag has too many numbers, an invalid type, or occurs twice.
        HeaderTooLong: there are too many tags.
        OSError: the file ends before its tags do.
    """
    order = "<" if content.startswith(b"II") else ">"
    big = content[2:4] in {b"+\0", b"\0+"}
    numbers: dict[int, tuple[int, ...]] = {}
    for entry in _entries(content, order, big=big):
        _check(entry)
        if entry.tag in _OF_LAYOUT and entry.count:
            if entry.tag in numbers:  # readers disagree about which one counts
                raise Damaged(f"tag {entry.tag} occurs twice")
            numbers[entry.tag] = _numbers(content, order, entry)
    return TiffTags(order == ">", big, numbers)


def _check(entry: _Entry) -> None:
    if entry.tag in _MANY:
        most = MOST_MANY
    elif entry.tag in _FEW or (entry.tag in _TEXTS and entry.kind not in _OF_BYTES):
        most = MOST_FEW
    else:
        return
    if entry.count > most:
        raise Damaged(f"tag {entry.tag} has {entry.count} values; at most {most} are permitted")


def _entries(content: bytes, order: str, *, big: bool) -> Iterator[_Entry]:
    (begin,) = _unpack(content, order + ("Q" if big else "I"), 8 if big else 4)
    number = struct.Struct(order + ("Q" if big else "H"))
    (count,) = _unpack(content, number.format, begin)
    if count > MOST_HEADER_READS:
        raise HeaderTooLong
    entry = struct.Struct(order + ("HHQ8s" if big else "HHI4s"))
    first = begin + number.size
    directory = content[first : first + count * entry.size]
    if len(directory) < count * entry.size:
        raise _ends_early()
    yield from (_Entry(*fields) for fields in entry.iter_unpack(directory))


def _numbers(content: bytes, order: str, entry: _Entry) -> tuple[int, ...]:
    letters = _LETTERS.get(entry.kind)
    if letters is None:
        raise Damaged(f"tag {entry.tag} has the invalid type {entry.kind}")
    wanted = struct.Struct(order + letters * entry.count)
    if wanted.size <= len(entry.value):
        return wanted.unpack_from(entry.value)
    (begin,) = struct.unpack(order + ("I" if len(entry.value) == 4 else "Q"), entry.value)  # noqa: PLR2004
    return _unpack(content, wanted.format, begin)


def _unpack(content: bytes, form: str, begin: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(form, content, begin)
    except (struct.error, OverflowError):
        raise _ends_early() from None


def _ends_early() -> OSError:
    return OSError("its directory is truncated")
