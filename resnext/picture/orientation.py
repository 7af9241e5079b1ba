"""Reads the orientation in a picture's EXIF, as `turn` takes it.

`decode` asks between the decoder and the resize, and `Classifier` for a Pillow image. The tag
is read here and not by Pillow, which reads all that an EXIF holds: a hostile one may point to the
same megabytes from each of 65,535 entries.
"""

from __future__ import annotations

import struct
from typing import Final, Literal

from PIL import Image

from resnext.picture.turn import ORIENTATION_TAG, TURNS

Orientation = Literal["ignore", "exif"]
"""`ignore`: pixels stay as they are stored, as in NVIDIA's preprocessing; `exif`: they are turned
as EXIF says."""

UPRIGHT: Final = 1
# What a container demands by itself (TIFF's own tag, irot and imir of AVIF and HEIF) is done by
# its reader in any case, and by ISO 23008-12 an orientation in the EXIF beside it says nothing.
_TURNED_BY_READERS: Final = frozenset({"TIFF", "AVIF", "HEIF"})
_SIDEWAYS: Final = frozenset({5, 6, 7, 8})

_MARK: Final = b"Exif\0\0"  # before it in a JPEG, and sometimes twice or in a WebP
_ENTRIES: Final = {b"II*\0": "<", b"MM\0*": ">"}
_SHORT: Final = 3
_ENTRY_BYTES: Final = 12
# Of a camera's first directory; thirty are usual. What comes later is not looked at.
_MOST_ENTRIES: Final = 1000


def orientation_of(image: Image.Image) -> int:
    """The value of EXIF's orientation, 1 to 8; 1 also where there is none, or none that is sound.

    Call it once the pixels are loaded: a PNG may have its EXIF behind them.
    """
    exif = image.info.get("exif")
    if image.format in _TURNED_BY_READERS or not isinstance(exif, bytes):
        return UPRIGHT
    return read_orientation(exif)


def read_orientation(exif: bytes) -> int:
    """The same of the bytes of an EXIF, which is a TIFF without a picture (EXIF 3.0, 4.5.2).

    Its first directory alone is read, and of that no more than `_MOST_ENTRIES`.
    """
    begin = 0
    while exif.startswith(_MARK, begin) and begin < 2 * len(_MARK):
        begin += len(_MARK)
    order = _ENTRIES.get(exif[begin : begin + 4])
    try:
        return UPRIGHT if order is None else _find(exif, begin, order)
    except struct.error:  # it ends early
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
    """Width and height once it is turned."""
    return (height, width) if orientation in _SIDEWAYS else (width, height)
