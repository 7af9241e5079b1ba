"""Reads the orientation in a picture's EXIF, for `turn`.

`decode` calls it between the decoder and the resize, and `Classifier` for Pillow images. It does
not use Pillow, which reads the whole EXIF: in a hostile one, each of 65,535 entries may point to
the same megabytes.
"""

from __future__ import annotations

import struct
from typing import Final, Literal

from PIL import Image

from resnext.picture.turn import ORIENTATION_TAG, TURNS

Orientation = Literal["ignore", "exif"]
"""`ignore`: pixels stay as they are stored, like in NVIDIA's preprocessing; `exif`: they are turned
as EXIF says."""

UPRIGHT: Final = 1
# These readers always apply the orientation that is part of the format (TIFF's own tag, irot and
# imir in AVIF and HEIF). According to ISO 23008-12, EXIF's orientation then has no meaning.
_TURNED_BY_READERS: Final = frozenset({"TIFF", "AVIF", "HEIF"})
_SIDEWAYS: Final = frozenset({5, 6, 7, 8})

_MARK: Final = b"Exif\0\0"  # before it in a JPEG, and sometimes twice or in a WebP
_ENTRIES: Final = {b"II*\0": "<", b"MM\0*": ">"}
_SHORT: Final = 3
_ENTRY_BYTES: Final = 12
# A camera's first directory usually has thirty entries. Entries after this many are ignored.
_MOST_ENTRIES: Final = 1000


def orientation_of(image: Image.Image) -> int:
    """Returns EXIF's orientation, 1 to 8. It is 1 if there is none, or an invalid one.

    Call it after the pixels are loaded: a PNG's EXIF may follow them.
    """
    exif = image.info.get("exif")
    if image.format in _TURNED_BY_READERS or not isinstance(exif, bytes):
        return UPRIGHT
    return read_orientation(exif)


def read_orientation(exif: bytes) -> int:
    """Returns the orientation in EXIF's bytes, which are a TIFF without a picture (EXIF 3.0,
    4.5.2).

    It reads only the first directory, and at most `_MOST_ENTRIES` of it.
    """
    begin = 0
    while exif.startswith(_MARK, begin) and begin < 2 * len(_MARK):
        begin += len(_MARK)
    order = _ENTRIES.get(exif[begin : begin + 4])
    try:
        return UPRIGHT if order is None else _find(exif, begin, order)
    except struct.error:  # the bytes end early
        return UPRIGHT


def _find(exif: bytes, begin: int, order: str) -> int:
    (offset,) = struct.unpack_from(f"{order}I", exif, begin + 4)
    place = begin + offset
    (entries,) = struct.unpack_from(f"{order}H", exif, place)
    for entry in range(min(entries, _MOST_ENTRIES)):
        at = place + 2 + entry * _ENTRY_BYTES
        tag, kind, count, value = struct.unpack_from(f"{order}HHIH", exif, at)
        if tag == ORIENTATION_TAG:
            sound = (kind, count) == (_SHORT, 1) and value in TURNS
            return value if sound else UPRIGHT
    return UPRIGHT


def turned_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """The width and height of the turned picture."""
    return (height, width) if orientation in _SIDEWAYS else (width, height)
