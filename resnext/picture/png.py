"""Pillow's reader of PNGs, without metadata, and with support for all transparent colours.

Texts, colour profiles and times may be damaged or unpack to gigabytes, so Pillow never sees them.
An animation shows the picture that every PNG viewer shows.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from resnext.picture.file_bytes import MOST_HEADER_READS, Body, HeaderTooLong, body_of
from resnext.picture.refusals import Unsupported

if TYPE_CHECKING:
    from PIL._imaging import PixelAccess

_MAGIC_BYTES: Final = 8
_CHUNK: Final = struct.Struct(">I4s")
_CHECKSUM_BYTES: Final = 4
_OF_PIXELS: Final = frozenset({b"IHDR", b"PLTE", b"tRNS"})
_LAST: Final = frozenset({b"IDAT", b"IEND"})
_EXIF: Final = b"eXIf"
# Cameras do not write more, and a JPEG has no room for more.
_MOST_EXIF_BYTES: Final = 64 * 2**10
_ANCILLARY_BIT: Final = 0x20
# Pillow scales grey with few bits to 8 bits. The transparent grey must be scaled as well.
_SPREAD: Final = {"L;2": (0x3, 85), "L;4": (0xF, 17), "L": (0xFF, 1)}
_HIGH_BYTES, _LOW_BYTES = "RGB;16B", "RGB;16L"


class Png(PngImageFile):
    """A PNG. After loading, its transparent colour is in Pillow's form or an alpha channel."""

    def _open(self) -> None:
        body = body_of(self)
        content = body.getvalue()
        essence = _without_metadata(content)
        if essence is not content:
            body.become(essence)
        super()._open()
        clear, raw = self.info.get("transparency"), self._raw_mode()
        if isinstance(clear, int) and raw in _SPREAD:
            mask, factor = _SPREAD[raw]
            self.info["transparency"] = (clear & mask) * factor

    def load(self) -> PixelAccess | None:
        clear = self.info.get("transparency")
        if self._raw_mode() != _HIGH_BYTES or clear is None:
            return super().load()
        low = self._of_low_bytes()
        super().load()
        del self.info["transparency"]
        self.putalpha(_alpha(self, low, clear))
        return Image.Image.load(self)

    def load_end(self) -> None:
        """Reads EXIF that follows the pixels, and nothing else there."""
        exif = None if "exif" in self.info else _last_exif(body_of(self).getvalue())
        if exif is not None:
            self.info["exif"] = exif

    def _raw_mode(self) -> str | None:
        """The layout of the samples in the file; None after they are loaded."""
        args = self.tile[0].args if self.tile else None
        return args if isinstance(args, str) else None

    def _of_low_bytes(self) -> Image.Image:
        """The same picture, but with the lower bytes of 16-bit RGB samples."""
        other = Png(Body(body_of(self).getvalue()))
        del other.info["transparency"]
        other.tile = [other.tile[0]._replace(args=_LOW_BYTES)]
        other.load()
        return other


def _alpha(high: Image.Image, low: Image.Image, clear: tuple[int, int, int]) -> Image.Image:
    """Mode L: 0 if all 16 bits of red, green and blue equal the transparent colour."""
    clears = np.ones((high.height, high.width), bool)
    for channel, value in enumerate(clear):
        clears &= np.asarray(high.getchannel(channel)) == value >> 8
        clears &= np.asarray(low.getchannel(channel)) == value & 0xFF
    return Image.fromarray(np.where(clears, np.uint8(0), np.uint8(255)))


def _without_metadata(content: bytes) -> bytes:
    """Returns the file without needless chunks before its pixels, except EXIF. If there are none,
    returns the same object.

    Raises:
        HeaderTooLong: the file has too many chunks.
        Unsupported: see `_is_needless`.
    """
    kept = [content[:_MAGIC_BYTES]]
    begin = at = _MAGIC_BYTES
    for _ in range(MOST_HEADER_READS):
        if at + _CHUNK.size > len(content):
            break
        length, name = _CHUNK.unpack_from(content, at)
        end = at + _CHUNK.size + length + _CHECKSUM_BYTES
        if name in _LAST or end > len(content) or not name.isalpha():
            break
        if _is_needless(content, name, at, end):
            kept.append(content[begin:at])
            begin = end
        at = end
    else:
        raise HeaderTooLong
    if begin == _MAGIC_BYTES:
        return content
    return b"".join([*kept, content[begin:]])


def _last_exif(content: bytes) -> bytes | None:
    begin = content.rfind(_EXIF) - 4
    if begin < _MAGIC_BYTES:
        return None
    at = begin + _CHUNK.size
    length, _ = _CHUNK.unpack_from(content, begin)
    end = at + length + _CHECKSUM_BYTES
    if length > _MOST_EXIF_BYTES or end > len(content) or not _is_sound(content, begin, end):
        return None
    return content[at : at + length]


def _is_needless(content: bytes, name: bytes, begin: int, end: int) -> bool:
    """Whether a chunk does not affect the pixels.

    Raises:
        Unsupported: the chunk affects the pixels, and Pillow does not know it.
    """
    if name in _OF_PIXELS:
        return False
    if name[0] & _ANCILLARY_BIT:
        return not (
            name == _EXIF and end - begin <= _MOST_EXIF_BYTES and _is_sound(content, begin, end)
        )
    if _is_sound(content, begin, end):
        words = f"a PNG whose pixels depend on the unknown chunk {name.decode()}"
        raise Unsupported(words)
    return False


def _is_sound(content: bytes, begin: int, end: int) -> bool:
    """Whether a chunk's checksum is right."""
    checked = memoryview(content)[begin + 4 : end - _CHECKSUM_BYTES]
    return zlib.crc32(checked) == int.from_bytes(content[end - _CHECKSUM_BYTES : end], "big")
